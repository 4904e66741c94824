"""The image cache and the foreign images that it converts: nobody's data but theirs."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.image_cache import overlays
from allocpolicy.image_cache.entry import SOURCE
from allocpolicy.images import base_image, identity
from allocpolicy.storage import lease
from tests.harness import images, ordinary_user
from tests.harness.cli import allocpolicy, command, environment, provision
from tests.harness.images import MIB, qemu_img

pytestmark = pytest.mark.filesystems("ext4")
SECTOR = 512
FORMATS = ("vmdk", "vpc", "vhdx", "vdi", "qed")
KEPT = "kept"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return images.make_base(tmp_path, size=16 * MIB)


@pytest.fixture
def vmdk(raw: Path) -> Path:
    return images.convert(raw, format="vmdk")


def refuse(directory: Path, base: Path, *arguments: object, says: str) -> None:
    """The image is refused in one line that names it; nothing is created."""
    before = sorted(directory.rglob("*"))
    finished = allocpolicy("provision", directory / "disk", "--base", base, *arguments)
    assert finished.status == 2, finished.stderr
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert f"{base}: " in finished.stderr
    assert says in finished.stderr
    assert sorted(directory.rglob("*")) == before


LIST_WHAT_IS_OPENED = """
import os, sys
from pathlib import Path
from allocpolicy.image_cache import entries

def opened(event, what):
    if event == "open" and not what[2] & os.O_PATH:
        print(os.path.realpath(what[0]))

sys.addaudithook(opened)
entries.entries(Path(sys.argv[1]))
"""


def only_entry(cache: Path) -> Path:
    (entry,) = cache.glob("*.raw")
    return entry


def prune(directory: Path, *arguments: object, **variables: str) -> list[str]:
    """Prune, and return what became of each entry."""
    finished = allocpolicy(
        "cache", "prune", directory, *arguments, "-f", "json", **variables
    )
    assert finished.status == 0, finished.stderr
    return [row["outcome"] for row in finished.document]


class TestNothingOutsideTheFile:
    """What an image names beside itself is never opened."""

    def test_a_vmdk_with_a_parent(self, directory: Path, vmdk: Path) -> None:
        overlay = vmdk.with_name("overlay.vmdk")
        qemu_img("create", "-f", "vmdk", "-b", vmdk, "-F", "vmdk", overlay)
        refuse(directory, overlay, says="parent")
        refuse(directory, overlay, "--base-format", "vmdk", says="parent")

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("parentCID=11111111", "parent"),
            ("parentCID=fffffffff", "parent"),
            ("PARENTCID=0", "parent"),
            ('parentFileNameHint="/etc/x.vmdk"', "parent"),
            ('# parentFileNameHint="/etc/x.vmdk"', "parent"),
            ('ddb.x = "parentFileNameHint="', "parent"),
            ('RW 2048 FLAT "secret" 0', "unknown line"),
            ('RW 2048 SPARSE "another.vmdk"', "2 extents"),
            ('changeTrackPath="secret"', "unknown line"),
            ("nonsense=1", "unknown line"),
        ],
    )
    def test_a_line_in_a_vmdk_descriptor(
        self, directory: Path, vmdk: Path, line: str, says: str
    ) -> None:
        self.describe(vmdk, lambda text: text + line.encode() + b"\n")
        refuse(directory, vmdk, says=says)

    def test_a_text_that_goes_on_behind_the_descriptor(
        self, directory: Path, vmdk: Path
    ) -> None:
        """QEMU looks for the hint in 20 sectors, whatever the header says."""
        self.describe(vmdk, lambda text: text.ljust(2 * SECTOR, b"#") + b"parent")
        with vmdk.open("r+b") as file:
            file.seek(36)
            file.write(struct.pack("<Q", 2))
        refuse(directory, vmdk, says="NUL")

    def test_a_capacity_of_0_makes_the_descriptor_count(
        self, directory: Path, vmdk: Path
    ) -> None:
        with vmdk.open("r+b") as file:
            file.seek(12)
            file.write(bytes(8))
        refuse(directory, vmdk, says="capacity")

    @pytest.mark.parametrize("offset", [60, -SECTOR + 60])
    def test_a_differencing_vpc(self, directory: Path, raw: Path, offset: int) -> None:
        image = images.convert(raw, format="vpc")
        with image.open("r+b") as file:
            file.seek(offset, os.SEEK_SET if offset > 0 else os.SEEK_END)
            file.write(struct.pack(">I", 4))
        refuse(directory, image, says="differencing")

    def test_a_differencing_vhdx(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="vhdx")
        guid = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
        with image.open("r+b") as file:
            content = file.read(4 * MIB)
            entry = content.index(guid)
            table = content.rindex(b"metadata", 0, entry)
            place = table + int.from_bytes(content[entry + 16 : entry + 20], "little")
            file.seek(place + 4)
            file.write(b"\2")
        refuse(directory, image, says="differencing")

    def test_a_differencing_vdi(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="vdi")
        with image.open("r+b") as file:
            file.seek(0x4C)
            file.write(struct.pack("<I", 4))
        refuse(directory, image, says="differencing")

    def test_a_qed_with_a_backing_file(self, directory: Path, raw: Path) -> None:
        image = raw.with_name("overlay.qed")
        qemu_img("create", "-q", "-f", "qed", "-b", raw, "-F", "raw", image)
        refuse(directory, image, says="backing file")

    def test_what_other_programs_write_is_accepted(
        self, directory: Path, vmdk: Path
    ) -> None:
        more = b'encoding="UTF-8"\r\nisNativeSnapshot="no"\nddb.uuid = "60 00 C2 9a"\n'
        self.describe(vmdk, lambda text: text + more)
        provision(directory / "disk", "--base", vmdk)

    @staticmethod
    def describe(vmdk: Path, change: Callable[[bytes], bytes]) -> None:
        """Change the descriptor; behind its NUL, QEMU leaves a rest of a longer CID."""
        with vmdk.open("r+b") as file:
            file.seek(SECTOR)
            text, _, _ = file.read(20 * SECTOR).partition(b"\0")
            file.seek(SECTOR)
            file.write(change(text).ljust(20 * SECTOR, b"\0"))


class TestDamage:
    """A damaged source is refused by its name, whatever QEMU makes of it."""

    @pytest.mark.parametrize("format", FORMATS)
    def test_cut_short(self, directory: Path, raw: Path, format: str) -> None:
        image = images.convert(raw, format=format)
        os.truncate(image, image.stat().st_size // 2 // SECTOR * SECTOR)
        refuse(directory, image, says="")

    def test_a_compressed_vmdk_cut_short(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="vmdk", options="subformat=streamOptimized")
        os.truncate(image, image.stat().st_size - MIB)
        refuse(directory, image, says="")

    def test_compressed_data_that_is_none(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="vmdk", options="subformat=streamOptimized")
        with image.open("r+b") as file:
            file.seek(image.stat().st_size - MIB)
            file.write(bytes(64 << 10))
        refuse(directory, image, says="damaged")

    def test_a_vpc_block_outside_the_file(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="vpc")
        with image.open("r+b") as file:
            file.seek(1536)
            file.write(struct.pack(">I", 1 << 20))
        refuse(directory, image, says="outside the file")

    def test_a_fixed_vpc_must_be_declared(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="vpc", options="subformat=fixed")
        refuse(directory, image, says="--base-format raw or vpc")
        size = image.stat().st_size
        report = provision(
            *(directory / "a", "--base", image, "--base-format", "raw"),
        )
        assert report["observed"]["virtual_size"] == size
        report = provision(
            *(directory / "b", "--base", image, "--base-format", "vpc"),
        )
        assert report["observed"]["virtual_size"] < size

    def test_a_long_path_in_the_cache(self, directory: Path, vmdk: Path) -> None:
        deep = directory
        while len(str(deep)) < 990:
            deep /= "d" * min(200, 990 - len(str(deep)))
        deep.mkdir(parents=True)
        finished = allocpolicy("provision", deep / "disk", "--base", vmdk)
        assert finished.status == 2, finished.stderr
        assert "longer than 1023 bytes" in finished.stderr
        assert os.listdir(deep) == []


class TestDecidedBeforeTheConversion:
    """What will be refused is refused before a byte is converted."""

    @pytest.mark.parametrize(
        ("arguments", "status"),
        [
            (("--size", "1M"), 2),
            (("--size", "1T", "--strategy", "space"), 3),
            (("--extra-spec", "allocpolicy:space.reserve=no"), 2),
        ],
    )
    def test_nothing_is_left(
        self, directory: Path, vmdk: Path, arguments: tuple[str, ...], status: int
    ) -> None:
        disk = directory / "disk"
        finished = allocpolicy("provision", disk, "--base", vmdk, *arguments)
        assert finished.status == status, finished.stderr
        assert os.listdir(directory) == []

    def test_room_for_the_copy(
        self, fresh_filesystem: Callable[..., Path], tmp_path: Path
    ) -> None:
        big = tmp_path / "big.raw"
        big.write_bytes(os.urandom(MIB) * 48)
        source = images.convert(big, format="vmdk", options="subformat=streamOptimized")
        mount_point = fresh_filesystem("ext4", size=32 * MIB)
        finished = allocpolicy("provision", mount_point / "disk", "--base", source)
        assert finished.status == 3
        assert "48.2 MiB needed" in finished.stderr
        parts = f"up to 48 MiB for the converted copy of {source})"
        assert f"(256 KiB for the disk and {parts}; " in finished.stderr
        assert os.listdir(mount_point) == ["lost+found"]

    def test_a_sparse_foreign_image_needs_no_more_than_its_data(
        self, fresh_filesystem: Callable[..., Path], tmp_path: Path
    ) -> None:
        mount_point = fresh_filesystem("ext4", size=128 * MIB)
        for format in FORMATS:
            image = tmp_path / f"image.{format}"
            qemu_img("create", "-q", "-f", format, image, "8G")
            write = ["qemu-io", "-f", format, "-c", "write 1G 3M", str(image)]
            subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
            disk = mount_point / format
            provision(disk, "--base", image, "--strategy", "performance")


class TestList:
    """What an entry was made from, by its own word."""

    def test_the_source_is_named(self, directory: Path, vmdk: Path) -> None:
        """Also of a copy of it, which leads to the same entry; and where it was."""
        provision(directory / "disk", "--base", vmdk)
        cache, copy = directory / "_base", vmdk.with_name("copy.vmdk")
        vmdk.rename(copy)
        provision(directory / "other", "--base", copy)
        [row] = listed(cache)
        assert row["source"] == str(vmdk)
        assert row["entry"] == str(only_entry(cache))
        assert row["used_by"] == [str(directory / "disk"), str(directory / "other")]
        assert row["virtual_size"] == 16 * MIB
        finished = allocpolicy("cache", "list", directory)
        heading, line = finished.stdout.splitlines()
        assert heading.split() == ["SIZE", "TAKEN", "KIND", "FORMAT", "USERS", "SOURCE"]
        assert line.split()[0] == "16M"
        assert line.split()[2:] == ["converted", "vmdk", "2", str(vmdk)]
        assert finished.stderr.startswith("1 converted image, ")

    def test_it_is_somebodys_word_and_may_be_missing(
        self, directory: Path, vmdk: Path
    ) -> None:
        provision(directory / "disk", "--base", vmdk)
        entry = only_entry(directory / "_base")
        os.setxattr(entry, SOURCE, b"/a\x1b[2J\nb\xff")
        assert listed(directory)[0]["source"] == "/a\x1b[2J\nb\udcff"
        shown = allocpolicy("cache", "list", directory).stdout
        assert r"/a\x1b[2J\nb\udcff" in shown
        assert len(shown.splitlines()) == 2
        os.removexattr(entry, SOURCE)
        assert listed(directory)[0]["source"] is None
        assert str(entry) in allocpolicy("cache", "list", directory).stdout

    def test_a_path_that_has_no_room_is_left_out(
        self, directory: Path, vmdk: Path
    ) -> None:
        """An xattr of ext4 has less than a block; the image is converted anyway."""
        deep = directory.joinpath(*["d" * 200] * 18)
        deep.mkdir(parents=True)
        base = deep / "base.vmdk"
        shutil.copy(vmdk, base)
        provision(directory / "disk", "--base", base)
        assert listed(directory)[0]["source"] in (None, str(base))


def listed(directory: Path) -> list[dict[str, object]]:
    """Return the rows of `cache list`."""
    rows: list[dict[str, object]] = allocpolicy(
        "cache", "list", directory, "-f", "json"
    ).document
    return rows


class TestPrune:
    """Only entries go, and none that a disk may need."""

    def test_the_users_own_files_stay(self, directory: Path, vmdk: Path) -> None:
        provision(directory / "disk", "--base", vmdk, "--strategy", "performance")
        cache = directory / "_base"
        digest = only_entry(cache).name.partition(".")[0]
        names = ["mine.raw", "debian-12.raw", "a.b.raw", f"{digest}.vmdk.raw.raw"]
        own = [cache / name for name in names]
        for path in own:
            path.write_text("mine")
        link = cache / f"{'0' * 64}.vmdk.raw"
        link.symlink_to(own[0])
        assert prune(directory) == ["removed"]
        assert all(path.exists() for path in (*own, link))

    @pytest.mark.parametrize("action", ["list", "prune"])
    def test_a_directory_that_is_no_cache(self, directory: Path, action: str) -> None:
        disk = directory / f"{'0' * 64}.vmdk.raw"
        disk.touch()
        finished = allocpolicy("cache", action, directory)
        assert finished.status == 2
        assert "not an image cache" in finished.stderr
        assert disk.exists()
        configured = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(directory)}
        assert prune(directory, **configured) == ["removed"]

    def test_special_files_are_not_opened(self, directory: Path, vmdk: Path) -> None:
        provision(directory / "disk", "--base", vmdk)
        entry = only_entry(directory / "_base")
        os.mkfifo(directory / "fifo")
        os.mknod(directory / "watchdog", 0o20600, os.makedev(10, 130))
        os.mkfifo(directory / "_base" / f"{'0' * 64}.vmdk.raw")
        opened = subprocess.run(
            [sys.executable, "-c", LIST_WHAT_IS_OPENED, directory / "_base"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert entry.name in opened
        for name in ("fifo", "watchdog", "0" * 64):
            assert name not in opened

    def test_an_overlay_in_a_btrfs_subvolume_is_a_user(
        self, btrfs: Path, vmdk: Path
    ) -> None:
        """Its files have a device number of their own, and one filesystem."""
        directory = Path(tempfile.mkdtemp(dir=btrfs))
        provision(directory / "disk", "--base", vmdk, "--strategy", "performance")
        entry = only_entry(directory / "_base")
        below = directory / "subvolume"
        subprocess.run(["btrfs", "-q", "subvolume", "create", below], check=True)
        options = ("-F", "raw", "-b", entry)
        images.qemu_img("create", "-q", "-f", "qcow2", *options, below / "overlay")
        assert prune(directory) == [KEPT]
        (below / "overlay").unlink()
        assert prune(directory) == ["removed"]
        subprocess.run(["btrfs", "-q", "subvolume", "delete", below], check=True)
        shutil.rmtree(directory)

    def test_with_a_cache_elsewhere_a_disk_that_is_gone_may_have_moved(
        self, directory: Path, vmdk: Path
    ) -> None:
        cache, disks = directory / "cache", directory / "disks"
        cache.mkdir()
        disks.mkdir()
        configured = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(cache)}
        provision(disks / "disk", "--base", vmdk, **configured)
        assert prune(cache, **configured) == [KEPT]
        (disks / "disk").rename(directory / "moved")
        assert prune(cache, **configured) == [KEPT]
        listed = allocpolicy("cache", "list", cache, "-f", "json").document
        assert "gone: deleted, or moved" in listed[0]["used_by"][0]
        told = allocpolicy("cache", "prune", cache, "--dry-run", **configured)
        assert " 1, 1 gone " in told.stdout
        assert "only for disks that are gone: see --forget-moved" in told.stderr
        assert prune(cache, "--forget-moved", **configured) == ["removed"]

    def test_a_dry_run_removes_nothing(self, directory: Path, vmdk: Path) -> None:
        """It shows what would be removed, and what would be kept."""
        cache = directory / "_base"
        provision(directory / "disk", "--base", vmdk)
        before = sorted(cache.rglob("*"))
        assert prune(directory, "--dry-run") == [KEPT]
        (directory / "disk").unlink()
        assert prune(directory, "--dry-run") == ["planned"]
        assert sorted(cache.rglob("*")) == before
        assert prune(directory) == ["removed"]
        assert prune(directory, "--dry-run") == []

    def test_a_disk_without_need_of_the_entry_is_no_user(
        self, directory: Path, vmdk: Path
    ) -> None:
        configured = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(directory / "cache")}
        disk = directory / "disk"
        provision(disk, "--base", vmdk, "--strategy", "performance", **configured)
        assert allocpolicy("provision", disk, "--base", vmdk, **configured).status == 2
        disk.unlink()
        assert prune(directory / "cache") == ["removed"]

    def test_an_entry_named_as_the_base_image(
        self, directory: Path, vmdk: Path
    ) -> None:
        cache = directory / "cache"
        configured = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(cache)}
        disk = directory / "first"
        provision(disk, "--base", vmdk, **configured)
        provision(directory / "second", "--base", only_entry(cache))
        provision(directory / "third", "--base", only_entry(cache), "--format", "raw")
        disk.unlink()
        assert prune(cache, "--forget-moved") == [KEPT]
        (directory / "second").unlink()
        assert prune(cache, "--forget-moved") == ["removed"]

    def test_a_disk_that_is_being_rewritten_is_left_in_peace(
        self, directory: Path, vmdk: Path
    ) -> None:
        """Opening it would break the lease of whoever rewrites it."""
        disk = directory / "disk"
        provision(disk, "--base", vmdk)
        fd = os.open(disk, os.O_RDWR)
        try:
            with lease.held(fd):
                assert prune(directory) == [KEPT]
                assert lease.is_whole(fd)
        finally:
            os.close(fd)

    def test_overlays_made_by_others_count(self, directory: Path, vmdk: Path) -> None:
        provision(directory / "disk", "--base", vmdk)
        entry = only_entry(directory / "_base")
        (directory / "disk").unlink()
        overlay = directory / "deep" / "overlay"
        overlay.parent.mkdir()
        for backing in (entry, f"json:{{'driver':'file','filename':'{entry}'}}"):
            arguments = ("-b", backing, "-F", "raw", overlay, "16M")
            qemu_img("create", "-u", "-f", "qcow2", *arguments)
            assert prune(directory) == [KEPT]
        overlay.unlink()
        assert prune(directory) == ["removed"]

    def test_no_disk_is_made_unseen(self, directory: Path, vmdk: Path) -> None:
        """Provision and prune race; whichever wins, the disk has its backing file."""
        for _ in range(8):
            disk = directory / "disk"
            provision(directory / "first", "--base", vmdk)
            (directory / "first").unlink()
            arguments = ("provision", disk, "--base", vmdk)
            with (
                subprocess.Popen(command(*arguments), env=environment()) as making,
                subprocess.Popen(
                    command("cache", "prune", directory),
                    env=environment(),
                    stdout=subprocess.DEVNULL,
                ) as pruning,
            ):
                assert making.wait() == 0
                assert pruning.wait() == 0
            images.qemu_img("check", "-f", "qcow2", disk)
            assert len(list((directory / "_base").glob("*.raw"))) == 1
            disk.unlink()

    def test_a_damaged_record_keeps_the_entry(
        self, directory: Path, vmdk: Path
    ) -> None:
        cache = directory / "cache"
        configured = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(cache)}
        provision(directory / "disk", "--base", vmdk, **configured)
        (directory / "disk").unlink()
        records = cache / ".users" / only_entry(cache).name
        records.write_bytes(b'"/half')
        provision(directory / "other", "--base", vmdk, **configured)
        (directory / "other").unlink()
        assert len(records.read_text().splitlines()) == 2
        assert prune(cache) == [KEPT]
        assert prune(cache, "--forget-moved") == ["removed"]


def test_a_hash_that_a_power_cut_emptied_is_replaced(
    directory: Path, vmdk: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.raw"
    other.write_bytes(os.urandom(MIB))
    provision(directory / "one", "--base", vmdk)
    cache = directory / "_base"
    right = only_entry(cache)
    for content in (b"", b"\0" * 64, b"../../x", right.name[:63].encode()):
        (remembered,) = (cache / ".memo").iterdir()
        remembered.write_bytes(content)
        shutil.copy(other, cache / f"{content.decode().strip(chr(0))[:5]}.vmdk.raw")
        report = provision(directory / "two", "--base", vmdk)
        assert report["observed"]["backing_file"] == str(right)
        (directory / "two").unlink()
        (remembered,) = (cache / ".memo").iterdir()
        assert remembered.read_text() == right.name.partition(".")[0]


def test_a_cache_that_may_only_be_read_is_used(
    directory: Path, vmdk: Path, fresh_filesystem: Callable[..., Path]
) -> None:
    mount_point = fresh_filesystem("ext4", size=128 * MIB)
    cache = mount_point / "cache"
    configured = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(cache)}
    provision(directory / "one", "--base", vmdk, **configured)
    copy = vmdk.with_name("copy.vmdk")
    shutil.copyfile(vmdk, copy)  # its hash is not known
    subprocess.run(["mount", "-o", "remount,ro", mount_point], check=True)
    report = provision(directory / "two", "--base", copy, **configured)
    assert report["observed"]["backing_file"] == str(only_entry(cache))


def test_an_ordinary_user_uses_what_root_converted(vmdk: Path) -> None:
    with ordinary_user.public_directory() as public:
        cache, disk, base = (public / name for name in ("cache", "disk", "base.vmdk"))
        configured = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(cache)}
        provision(public / "one", "--base", vmdk, **configured)
        shutil.copyfile(vmdk, base)  # its hash is not known
        lock_path = {"OS_ALLOCPOLICY__LOCK_PATH": str(public / "locks")}
        finished = subprocess.run(
            ordinary_user.command(*command("provision", disk, "--base", base)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(HOME="/nonexistent", **configured, **lock_path),
        )
        assert finished.returncode == 0, finished.stderr
        images.check(disk)
        assert prune(cache) == [KEPT]


def test_a_base_image_whose_path_leads_elsewhere_now(
    directory: Path, raw: Path
) -> None:
    """An overlay would name what nobody checked."""
    with base_image.open_source(raw, declared=None) as source:
        identity.refuse_if_changed(source)
        copy = raw.with_name("copy")
        shutil.copy2(raw, copy)
        copy.replace(raw)
        with pytest.raises(ImageError, match="replaced"):
            identity.refuse_if_changed(source)
        raw.unlink()
        with pytest.raises(ImageError, match="disappeared"):
            identity.refuse_if_changed(source)


def test_looking_for_disks_stays_on_the_filesystem(
    directory: Path, fresh_filesystem: Callable[..., Path], tmp_path: Path
) -> None:
    mount_point = fresh_filesystem("ext4", size=64 * MIB)
    for place in (mount_point, tmp_path):
        arguments = ("-b", "/x", "-F", "raw", place / "disk", "1M")
        qemu_img("create", "-u", "-f", "qcow2", *arguments)
    seen = overlays.look([tmp_path])
    assert seen.by_backing_file[Path("/x")] == [tmp_path / "disk"]
