"""A cache in a directory of somebody else: what he puts there does root no harm."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.image_cache import records
from tests.harness import images, ordinary_user, owner_at_work
from tests.harness.cli import Finished, allocpolicy, command, environment, provision
from tests.harness.image_hash import image_hash
from tests.harness.images import MIB
from tests.harness.owner_at_work import Owner

pytestmark = pytest.mark.filesystems("ext4")
UNKNOWN = "0" * 64 + ".vmdk.raw"


@pytest.fixture
def owner(directory: Path) -> Iterator[Owner]:
    with owner_at_work.owner(directory) as owner:
        yield owner


@pytest.fixture
def disks(directory: Path, owner: Owner) -> Path:
    """Give him a directory, as Nova has its instances."""
    disks = directory / "disks"
    disks.mkdir()
    shutil.chown(disks, owner_at_work.UID)
    return disks


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return image(tmp_path, "base")


@pytest.fixture
def victim(directory: Path) -> Path:
    """Return a directory of root's; its files have the names of records."""
    victim = directory / "victim"
    victim.mkdir()
    for name in ("1-2-3-4-5", UNKNOWN, "precious"):
        (victim / name).write_text("0" * 64)
    return victim


def image(directory: Path, content: str) -> Path:
    """Make a foreign image, whose hash anybody may know."""
    raw = directory / f"{content}.raw"
    raw.write_bytes(content.encode().ljust(MIB, b"."))
    vmdk = directory / f"{content}.vmdk"
    images.qemu_img("convert", "-f", "raw", "-O", "vmdk", raw, vmdk)
    return vmdk


def entry_name(image: Path) -> str:
    return f"{image_hash(image)}.vmdk.raw"


def refuse(disks: Path, base: Path, *, says: str) -> None:
    """The cache is refused in one line that names it; no disk is made."""
    finished = allocpolicy("provision", disks / "disk", "--base", base)
    refused(finished, says=says)
    assert "image cache" in finished.stderr
    assert not (disks / "disk").exists()


def refused(finished: Finished, *, says: str) -> None:
    assert finished.status == 2, finished.stderr
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert says in finished.stderr


def tree(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.iterdir()}


class TestLinks:
    """Nothing in his directory leads root to another."""

    @pytest.mark.parametrize("name", [".memo", ".users"])
    def test_records_that_are_a_link(
        self, disks: Path, base: Path, victim: Path, owner: Owner, name: str
    ) -> None:
        before = tree(victim)
        owner.does(f"mkdir _base; ln -s ../../victim _base/{name}", directory=disks)
        refuse(disks, base, says=f"_base/{name}: it is a symbolic link")
        refused(allocpolicy("cache", "prune", disks), says="it is a symbolic link")
        assert tree(victim) == before

    def test_a_cache_that_is_a_link(
        self, disks: Path, base: Path, victim: Path, owner: Owner
    ) -> None:
        before = tree(victim)
        owner.does("ln -s ../victim _base", directory=disks)
        refuse(disks, base, says="_base: it is a symbolic link")
        for action in ("list", "prune"):
            for named in (disks, disks / "_base"):
                refused(allocpolicy("cache", action, named), says="a symbolic link")
        assert tree(victim) == before

    def test_an_operators_own_link_is_followed(
        self, directory: Path, base: Path
    ) -> None:
        (directory / "elsewhere").mkdir()
        (directory / "_base").symlink_to("elsewhere")
        report = provision(directory / "disk", "--base", base)
        made = directory / "elsewhere" / entry_name(base)
        assert report["observed"]["backing_file"] == str(made)
        (row,) = allocpolicy("cache", "list", directory, "-f", "json").document
        assert row["entry"] == str(made)

    def test_an_entry_that_is_a_link(
        self, disks: Path, base: Path, victim: Path, owner: Owner
    ) -> None:
        name = entry_name(base)
        owner.does(
            f"mkdir _base; ln -s ../../victim/precious _base/{name}", directory=disks
        )
        refuse(disks, base, says="a symbolic link, not a regular file")
        assert allocpolicy("cache", "prune", disks).status == 0
        assert (disks / "_base" / name).is_symlink()


class TestForeignRecords:
    """What somebody else recorded, or could have, is not read."""

    @pytest.mark.parametrize("name", [".memo", ".users"])
    def test_his_own_directory(
        self, disks: Path, base: Path, owner: Owner, name: str
    ) -> None:
        owner.does(f"mkdir -p _base/{name}; mkfifo _base/{name}/x", directory=disks)
        refuse(disks, base, says="it belongs to user")
        refused(allocpolicy("cache", "prune", disks), says="it belongs to user")

    @pytest.mark.parametrize("name", [".memo", ".users"])
    def test_one_that_others_may_write_to(
        self, directory: Path, base: Path, name: str
    ) -> None:
        (directory / "_base" / name).mkdir(parents=True)
        (directory / "_base" / name).chmod(0o777)
        refuse(directory, base, says="others may write to it (mode 0777)")

    def test_a_hash_that_names_another_image(
        self, disks: Path, base: Path, tmp_path: Path, owner: Owner
    ) -> None:
        """A planted hash would give him a disk with the content of another's image."""
        theirs = image(tmp_path, "theirs")
        owner.does("mkdir _base", directory=disks)
        provision(disks / "theirs", "--base", theirs)
        status = base.stat()
        times = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
        name = f"{status.st_dev}-{status.st_ino}-{status.st_size}-{times}"
        digest = entry_name(theirs).partition(".")[0]
        owner.does(
            "cd _base; mv .memo .was; mkdir .memo;"
            f" printf {digest} > .memo/{name}; chmod -R go-w .memo",
            directory=disks,
        )
        refuse(disks, base, says="it belongs to user")


class TestForeignEntries:
    """An entry is ours or root's, and the one that its name says."""

    def test_one_that_he_made(self, disks: Path, base: Path, owner: Owner) -> None:
        owner.does(f"mkdir _base; echo his > _base/{entry_name(base)}", directory=disks)
        refuse(disks, base, says="it belongs to user")

    def test_one_that_others_may_write_to(self, directory: Path, base: Path) -> None:
        provision(directory / "first", "--base", base)
        (directory / "_base" / entry_name(base)).chmod(0o664)
        refuse(directory, base, says="others may write to it (mode 0664)")

    def test_one_that_he_renamed(
        self, disks: Path, base: Path, tmp_path: Path, owner: Owner
    ) -> None:
        """It is root's, read-only, and has the content of another image."""
        other = image(tmp_path, "other")
        owner.does("mkdir _base", directory=disks)
        provision(disks / "other", "--base", other)
        renamed = f"mv _base/{entry_name(other)} _base/{entry_name(base)}"
        owner.does(renamed, directory=disks)
        refuse(disks, base, says="it doesn't record this name")

    def test_a_cache_that_is_his_by_design_is_used(
        self, disks: Path, base: Path, owner: Owner
    ) -> None:
        """Nova's is; root converts once, and finds what it converted."""
        owner.does("mkdir _base", directory=disks)
        for name in ("first", "second"):
            report = provision(disks / name, "--base", base)
            made = disks / "_base" / entry_name(base)
            assert report["observed"]["backing_file"] == str(made)
        inode = made.stat().st_ino
        provision(disks / "third", "--base", base)
        assert made.stat().st_ino == inode


class TestPrune:
    """It ends, and takes nothing but unused entries, whatever has their names."""

    def test_fifos_and_devices(self, disks: Path, base: Path, owner: Owner) -> None:
        owner.does("mkdir _base", directory=disks)
        provision(disks / "disk", "--base", base)
        names = " ".join(f"{number:064x}.vmdk.raw" for number in range(300))
        owner.does(f"cd _base; mkfifo {names}", directory=disks)
        os.mknod(disks / "_base" / UNKNOWN.replace("0", "f"), 0o20600, os.makedev(1, 5))
        for action, entries in (("list", 1), ("prune", 1)):
            finished = allocpolicy("cache", action, disks, "-f", "json")
            assert finished.status == 0, finished.stderr
            assert len(finished.document) == entries
        assert len(list((disks / "_base").glob("*.raw"))) == 302

    @pytest.mark.parametrize("kind", [".memo", ".users"])
    @pytest.mark.parametrize("what", ["fifo", "zero", "directory"])
    def test_records_that_are_none(
        self, directory: Path, base: Path, kind: str, what: str
    ) -> None:
        """Root made them, by mistake; nothing waits, and memory is bounded."""
        provision(directory / "disk", "--base", base)
        (record,) = (directory / "_base" / kind).iterdir()
        record.unlink()
        if what == "fifo":
            os.mkfifo(record)
        elif what == "zero":
            record.symlink_to("/dev/zero")
        else:
            record.mkdir()
        for arguments in (
            ("provision", directory / "other", "--base", base),
            ("cache", "prune", directory),
        ):
            refused(allocpolicy(*arguments), says="not a regular file")

    def test_a_disk_that_became_a_loop_of_links(
        self, disks: Path, base: Path, owner: Owner
    ) -> None:
        """Its owner stops nobody else's cache from being pruned."""
        provision(disks / "disk", "--base", base)
        owner.does("rm -f disk; ln -s disk disk", directory=disks)
        for action in ("list", "prune"):
            finished = allocpolicy("cache", action, disks, "-f", "json")
            assert finished.status == 0, finished.stderr

    def test_a_record_larger_than_any(self, directory: Path, base: Path) -> None:
        """An entry whose users can't be known stays."""
        cache = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(directory / "cache")}
        provision(directory / "disk", "--base", base, **cache)
        (directory / "disk").unlink()
        (record,) = (directory / "cache" / ".users").iterdir()
        os.truncate(record, 1 << 40)
        finished = allocpolicy("cache", "prune", directory / "cache", "-f", "json")
        (row,) = finished.document
        assert row["used_by"] == ["a disk whose record is damaged"]

    def test_names_that_only_resemble_those_of_entries(
        self, disks: Path, base: Path, owner: Owner
    ) -> None:
        owner.does("mkdir _base", directory=disks)
        provision(disks / "disk", "--base", base, "--strategy", "performance")
        own = [f"{UNKNOWN}\n", f"\n{UNKNOWN}", UNKNOWN.upper(), UNKNOWN[1:]]
        for name in own:
            (disks / "_base" / name).write_text("his")
        (disks / "_base" / UNKNOWN).mkdir()
        finished = allocpolicy("cache", "prune", disks, "-f", "json")
        assert [row["outcome"] for row in finished.document] == ["removed"]
        assert set(os.listdir(disks / "_base")) == {*own, UNKNOWN, ".memo", ".users"}

    def test_more_entries_than_descriptors(
        self, disks: Path, base: Path, owner: Owner
    ) -> None:
        names = " ".join(f"{number:064x}.vmdk.raw" for number in range(1100))
        owner.does(f"mkdir _base; cd _base; touch {names}", directory=disks)
        finished = allocpolicy("cache", "prune", disks, "-f", "json")
        assert finished.status == 0, finished.stderr
        assert [row["outcome"] for row in finished.document] == ["removed"] * 1100

    def test_a_lock_of_his_is_not_waited_for_without_end(
        self, disks: Path, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever may read a file may lock it."""
        monkeypatch.setattr(records, "_PATIENCE", 0.0)
        provision(disks / "first", "--base", base)
        for path in ("entry", ".users"):
            (locked,) = (disks / "_base").glob(
                "*.raw" if path == "entry" else f"{path}/*"
            )
            with locked.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                refuse(disks, base, says="another process holds its lock")

    def test_a_lease_of_his_makes_nobody_wait(
        self, disks: Path, base: Path, owner: Owner
    ) -> None:
        owner.does(f"mkdir _base; touch _base/{UNKNOWN}", directory=disks)
        with owner.leasing(disks / "_base" / UNKNOWN):
            finished = allocpolicy("cache", "prune", disks, "-f", "json")
        (row,) = finished.document
        assert row["used_by"] == ["a running process"]

    def test_who_may_not_remove_an_entry_is_told_which(
        self, directory: Path, base: Path, owner: Owner
    ) -> None:
        provision(directory / "disk", "--base", base, "--strategy", "performance")
        (directory / "disk").unlink()
        made = owner.reached / "_base" / entry_name(base)
        finished = subprocess.run(
            ordinary_user.command(*command("cache", "prune", made.parent)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(HOME="/nonexistent"),
        )
        assert finished.returncode != 0
        assert len(finished.stderr.splitlines()) == 1, finished.stderr
        assert str(made) in finished.stderr
        assert (directory / "_base" / made.name).exists()
