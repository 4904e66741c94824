"""Disks grow under their policy: reserved and mapped to the new end, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy, command, environment, provision
from tests.harness.filesystems import available, leave_free
from tests.harness.images import MIB

SIZE, GROWN = 64 * MIB, 160 * MIB
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
POLICIES = {
    "none": ("--strategy", "none"),
    "space": ("--strategy", "space"),
    "sparse": ("--strategy", "performance"),
    "falloc": (
        *("--strategy", "performance"),
        *("--extra-spec", "allocpolicy:performance.data=falloc"),
    ),
    "full": (
        *("--strategy", "performance"),
        *("--extra-spec", "allocpolicy:performance.data=full"),
    ),
    "backed": (
        *("--strategy", "performance"),
        *("--extra-spec", "allocpolicy:performance.layout=backed"),
    ),
}


def resized(disk: Path, size: object, **variables: str) -> Any:
    """Resize a disk, which must succeed, and return the report."""
    finished = allocpolicy("resize", disk, size, "-f", "json", **variables)
    assert finished.status == 0, finished.stderr
    return finished.document


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.make_base(tmp_path_factory.mktemp("base"), size=48 * MIB)


def grown_copy(disk: Path, *, format: str) -> Path:
    """Return a raw copy of what the guest reads, and zeroes up to the new size."""
    copy = disk.with_suffix(".content")
    images.qemu_img("convert", "-U", "-f", format, "-O", "raw", disk, copy)
    with copy.open("r+b") as file:
        file.truncate(GROWN)
    return copy


def assert_sound(disk: Path, *, format: str) -> None:
    if format == "qcow2":
        result = images.check(disk)
        assert "leaks" not in result
        assert "corruptions" not in result


@ALL
@pytest.mark.parametrize(
    ("policy", "format"),
    [(name, "qcow2") for name in POLICIES]
    + [(name, "raw") for name in POLICIES if name != "backed"],
)
def test_a_disk_that_grew_keeps_its_promise(
    directory: Path, base: Path, policy: str, format: str
) -> None:
    disk = directory / "disk"
    choice = ("--format", format, *POLICIES[policy])
    before = provision(disk, "--base", base, "--size", SIZE, *choice)["observed"]
    images.qemu_io(disk, "write -P 7 61M 1M", "write -P 8 5M 64k", format=format)
    expected = grown_copy(disk, format=format)
    report = resized(disk, "160M")
    assert report["mode"] == "in_place"
    observed = report["observed"]
    assert observed["virtual_size"] == GROWN
    assert report["verdict"]["judgement"] == "meets"
    assert observed["allocation"] == before["allocation"]
    assert observed["mapping"] in (before["mapping"], "partial")
    if policy not in ("none", "space"):
        assert observed["mapping"] == "full"
    if before["allocation"] != "thin":
        assert disk.stat().st_blocks * 512 >= GROWN
        assert observed["guaranteed"]
    assert images.info(disk, format=format)["virtual-size"] == GROWN
    assert images.same_content(disk, expected, formats=(format, "raw"))
    assert_sound(disk, format=format)
    # All of it can be written, and the promise holds.
    images.qemu_io(disk, "write -P 9 0 80M", "write -P 9 80M 80M", format=format)
    assert_sound(disk, format=format)
    finished = allocpolicy("apply", disk, "-f", "json")
    assert finished.document[0]["verdict"] == "meets"
    if before["allocation"] != "thin":
        assert finished.document[0]["mode"] == "nothing"


@ALL
@pytest.mark.parametrize("policy", ["none", "space", "falloc"])
def test_a_disk_that_was_made_anywhere_can_grow(directory: Path, policy: str) -> None:
    """qemu-img's own images, of a size that is no cluster's, with no stamp."""
    disk = directory / "disk"
    mode = "off" if policy in ("none", "space") else "falloc"
    options = f"preallocation={mode},nocow=on"  # for btrfs
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", options, disk, SIZE + 512)
    finished = allocpolicy(
        *("resize", disk, GROWN, "--format", "qcow2", *POLICIES[policy]),
        *("-f", "json"),
    )
    assert finished.status == 0, finished.stderr
    assert finished.document["observed"]["virtual_size"] == GROWN
    assert_sound(disk, format="qcow2")


@pytest.mark.parametrize("cluster_size", ["512", "1k", "4k", "64k"])
def test_small_clusters_grow_reserved_beyond_what_their_tables_reach(
    tmp_path: Path, cluster_size: str
) -> None:
    """A longer L1 table behind the reservation leaves no room that requests skip."""
    for size in (SIZE, SIZE + 8 * MIB, 100 * MIB):
        disk = tmp_path / f"disk-{size}"
        options = f"cluster_size={cluster_size}"
        images.qemu_img("create", "-q", "-f", "qcow2", "-o", options, disk, size)
        images.qemu_io(disk, "write -P 3 1M 300k", format="qcow2")
        finished = allocpolicy("apply", disk, "--format", "qcow2", *POLICIES["space"])
        assert finished.status == 0, finished.stderr
        for grown in (size + 512, 104 * MIB, GROWN):
            assert resized(disk, grown)["verdict"]["judgement"] == "meets"
        assert_sound(disk, format="qcow2")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_reservation_longer_than_a_refcount_block_counts_can_grow(
    fresh_filesystem: Callable[..., Path], kind: str
) -> None:
    """Nothing goes behind it, where the L1 table has room: 2 GiB at 64 KiB clusters."""
    disk = fresh_filesystem(kind, size=6 << 30) / "disk"
    provision(disk, "--size", "3G", *POLICIES["space"])
    assert resized(disk, "4G")["verdict"]["judgement"] == "meets"
    assert_sound(disk, format="qcow2")


def test_the_size_that_it_has_is_nothing_to_do(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    provision(disk, "--size", SIZE, "--strategy", "space")
    before = disk.stat().st_mtime_ns
    report = resized(disk, SIZE)
    assert report["mode"] == "nothing"
    assert disk.stat().st_mtime_ns == before


@ALL
def test_what_is_added_to_an_odd_size_is_rounded_up(directory: Path) -> None:
    """A disk that another tool made has any size; QEMU needs whole blocks."""
    disk = directory / "odd.raw"
    disk.write_bytes(b"guest" * 2_000_001)
    finished = allocpolicy("apply", disk, "--strategy", "space", "--format", "raw")
    assert finished.status == 0, finished.stderr
    wrong = allocpolicy("resize", disk, 20 * MIB + 1)
    assert wrong.status == 2
    assert "the next that is one" in wrong.stderr
    observed = resized(disk, "+10M")["observed"]
    alignment = observed["direct_io_alignment"] or 512
    exact = 10_000_005 + 10 * MIB
    assert observed["virtual_size"] == -(-exact // alignment) * alignment
    assert disk.read_bytes().startswith(b"guest" * 2_000_001 + bytes(10 * MIB))


@pytest.mark.parametrize("size", ["1M", "0", "-5", "nonsense", "100", "1000T"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_shrinking_and_what_is_no_size_is_refused(
    tmp_path: Path, format: str, size: str
) -> None:
    disk = tmp_path / "disk"
    provision(disk, "--size", SIZE, "--format", format)
    before = disk.read_bytes()
    finished = allocpolicy("resize", disk, "--", size)
    assert finished.status == 2
    assert len(finished.stderr.splitlines()) == 1
    assert disk.read_bytes() == before


@pytest.mark.filesystems("xfs")  # QEMU's lock bytes are the VFS's
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_running_vms_disk_is_left_to_its_own_command(
    directory: Path, format: str
) -> None:
    disk = directory / "disk"
    provision(disk, "--size", SIZE, "--format", format, "--strategy", "space")
    with images.held_by_qemu(disk, format=format):
        finished = allocpolicy("resize", disk, GROWN)
    assert finished.status == 2
    assert "virsh blockresize" in finished.stderr
    assert images.info(disk, format=format)["virtual-size"] == SIZE


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_lack_of_room_leaves_the_old_size_and_takes_nothing(
    fresh_filesystem: Callable[..., Path], kind: str, format: str
) -> None:
    mount_point = fresh_filesystem(kind)
    disk = mount_point / "disk"
    provision(disk, "--size", SIZE, "--format", format, "--strategy", "space")
    leave_free(mount_point, 200 * MIB)
    before, free = disk.read_bytes(), available(mount_point)
    # Admission lets it pass without headroom; the kernel has the last word.
    for options in ({}, {"OS_ALLOCPOLICY__HEADROOM_MINIMUM": "0"}):
        finished = allocpolicy("resize", disk, "512M", **options)
        assert finished.status == 3, finished.stderr
    assert disk.read_bytes() == before
    assert free - available(mount_point) < 2 * MIB
    assert images.info(disk, format=format)["virtual-size"] == SIZE


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_reservation_takes_what_is_missing_and_no_more(
    fresh_filesystem: Callable[..., Path], kind: str, format: str
) -> None:
    """XFS wants the whole range to be free that fallocate(2) is asked for."""
    mount_point = fresh_filesystem(kind)
    disk = mount_point / "disk"
    provision(disk, "--size", "300M", "--format", format, "--strategy", "space")
    for offset in range(16 * MIB, 256 * MIB, 64 * MIB):
        images.qemu_io(disk, f"discard {offset} 4M", format="raw", discard="unmap")
    leave_free(mount_point, 80 * MIB)
    exact = {"OS_ALLOCPOLICY__HEADROOM_MINIMUM": "0"}
    with ExitStack() as stack:
        if format == "qcow2":  # while a VM has it
            stack.enter_context(images.held_by_qemu(disk, format=format))
        finished = allocpolicy("apply", disk, "-f", "json", **exact)
    assert finished.status == 0, finished.stderr
    assert finished.document[0]["allocation"] == "reserved"
    assert resized(disk, "340M", **exact)["observed"]["allocation"] == "reserved"


def with_bitmap(disk: Path) -> None:
    images.qemu_img("create", "-q", "-f", "qcow2", disk, SIZE)
    images.qemu_img("bitmap", "--add", disk, "changed")
    images.qemu_io(disk, "write -P 5 1M 1M", format="qcow2")


def with_snapshot(disk: Path) -> None:
    images.qemu_img("create", "-q", "-f", "qcow2", disk, SIZE)
    images.qemu_io(disk, "write -P 5 1M 1M", format="qcow2")
    images.qemu_img("snapshot", "-c", "before", disk)
    images.qemu_io(disk, "write -P 6 1M 3M", format="qcow2")


def with_wide_refcounts(disk: Path) -> None:
    options = "refcount_bits=64,cluster_size=512"
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", options, disk, SIZE)
    images.qemu_io(disk, "write -P 5 1M 1M", format="qcow2")


def with_a_longer_backing_file(disk: Path) -> None:
    """What it has beyond the overlay's end must not show."""
    base = disk.with_suffix(".base")
    base.write_bytes(b"\x77" * (2 * SIZE))
    backing = ("-b", base.name, "-F", "raw")
    images.qemu_img("create", "-q", "-f", "qcow2", *backing, disk, SIZE)
    images.qemu_io(disk, "write -P 5 1M 1M", format="qcow2")


def extras(disk: Path) -> Any:
    """Return its snapshots and its bitmaps."""
    found = images.info(disk, format="qcow2")
    names = [one["name"] for one in found.get("snapshots", [])]
    return names, found["format-specific"]["data"].get("bitmaps")


@ALL
@pytest.mark.parametrize("policy", ["none", "space"])
@pytest.mark.parametrize(
    "make",
    [with_bitmap, with_snapshot, with_wide_refcounts, with_a_longer_backing_file],
)
def test_what_only_qemu_can_grow_is_grown_by_it(
    directory: Path, make: Callable[[Path], None], policy: str
) -> None:
    disk = directory / "disk"
    subprocess.run(["chattr", "+C", directory], capture_output=True, check=False)
    make(disk)
    before, expected = extras(disk), grown_copy(disk, format="qcow2")
    choice = ("--format", "qcow2", *POLICIES[policy])
    original = disk.read_bytes(), used(disk)
    assert allocpolicy("resize", disk, "+96M", *choice, "--dry-run").status == 0
    assert (disk.read_bytes(), used(disk)) == original
    finished = allocpolicy("resize", disk, "+96M", *choice, "-f", "json")
    assert finished.status == 0, finished.stderr
    observed = finished.document["observed"]
    assert observed["virtual_size"] == GROWN
    if policy == "space":
        assert observed["allocation"] == "reserved"
    assert_sound(disk, format="qcow2")
    assert extras(disk) == before
    assert images.same_content(disk, expected, formats=("qcow2", "raw"))
    images.qemu_io(disk, "write -P 7 150M 10M", format="qcow2")
    assert_sound(disk, format="qcow2")


def used(disk: Path) -> int:
    return disk.stat().st_blocks * 512


def encrypted(disk: Path) -> str:
    images.qemu_img("create", "-q", "-f", "qcow2", disk, SIZE)
    with disk.open("r+b") as file:  # LUKS, by hand: making it takes QEMU long
        file.seek(32)
        file.write(b"\0\0\0\2")
    return "--object secret"


def dirty(disk: Path) -> str:
    images.qemu_img("create", "-q", "-f", "qcow2", disk, SIZE)
    with disk.open("r+b") as file:
        file.seek(72)
        file.write(b"\0\0\0\0\0\0\0\1")
    return "qemu-img check -r all"


def old_with_snapshot(disk: Path) -> str:
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", disk, SIZE)
    images.qemu_img("snapshot", "-c", "before", disk)
    return "qemu-img amend -o compat=1.1"


def narrow(disk: Path) -> str:
    options = "refcount_bits=1"
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", options, disk, SIZE)
    return "qemu-img amend -o refcount_bits=16"


def miscounted(disk: Path) -> str:
    """QEMU would take the clusters of the snapshot's table for free ones."""
    with_snapshot(disk)
    with disk.open("r+b") as file:
        file.seek(2 * 65536)  # the refcount block
        file.write(bytes(64))
    return "qemu-img check"


@pytest.mark.parametrize(
    "make", [encrypted, dirty, old_with_snapshot, narrow, miscounted]
)
def test_what_cannot_grow_is_known_when_it_is_planned(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    """A dry run says the same; nothing is taken, and the message names the disk."""
    disk = tmp_path / "disk"
    remedy = make(disk)
    before = disk.read_bytes(), used(disk)
    choice = ("--format", "qcow2", *POLICIES["space"])
    for options in (["--dry-run"], []):
        finished = allocpolicy("resize", disk, "1G", *choice, *options)
        assert finished.status == 2, finished.stderr
        assert remedy in finished.stderr
        assert str(disk) in finished.stderr
        assert (disk.read_bytes(), used(disk)) == before


@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("policy", ["none", "space", "sparse"])
def test_a_file_that_would_be_too_long_is_known_when_it_is_planned(
    fresh_filesystem: Callable[..., Path], format: str, policy: str
) -> None:
    """ext4 with blocks of 1 KiB has files of up to 4 TiB."""
    if (format, policy) == ("qcow2", "none"):
        return  # its file stays short until the guest has written so much
    place = fresh_filesystem("ext4", mkfs_options=("-b", "1024"))
    disk = place / "disk"
    provision(disk, "--size", SIZE, "--format", format, *POLICIES[policy])
    for options in (["--dry-run"], []):
        finished = allocpolicy("resize", disk, "5T", *options)
        assert finished.status == 4, finished.stderr
        assert "EFBIG" in finished.stderr
        assert used(disk) < 2 * SIZE
        new = ("provision", place / "new", "--format", format, "--size", "5T")
        finished = allocpolicy(*new, *POLICIES[policy], *options)
        assert finished.status == 4, finished.stderr


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_what_a_growth_took_before_it_failed_is_given_back(
    fresh_filesystem: Callable[..., Path], kind: str
) -> None:
    """All but what was there before, also where the disk had storage past its end."""
    disk = fresh_filesystem(kind) / "disk"
    provision(disk, "--size", SIZE, "--format", "raw", *POLICIES["space"])
    limited = {"OS_ALLOCPOLICY__HEADROOM_MINIMUM": "0"}
    leave_free(disk.parent, 100 * MIB)
    before = used(disk)
    assert allocpolicy("resize", disk, "400M", **limited).status == 3
    assert used(disk) == before
    if kind == "ext4":
        return  # it punches no holes past the end
    subprocess.run(["fallocate", "-n", "-o", str(SIZE), "-l", "8M", disk], check=True)
    before = used(disk)
    fill = "from allocpolicy.storage import past_end, fallocate; import os, sys;"
    fill += "fd = os.open(sys.argv[1], os.O_RDWR); seen = past_end.look(fd);"
    fill += "fallocate.allocate_past_end(fd, offset=64 << 20, length=32 << 20);"
    fill += "past_end.give_back(fd, before=seen)"
    subprocess.run([sys.executable, "-c", fill, disk], check=True)
    assert used(disk) == before


@ALL
@pytest.mark.parametrize("policy", ["space", "falloc"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_kill_leaves_the_old_size_or_the_new_one(
    directory: Path, base: Path, policy: str, format: str
) -> None:
    disk = directory / "disk"
    choice = ("--format", format, *POLICIES[policy])
    provision(disk, "--base", base, "--size", SIZE, *choice)
    expected = grown_copy(disk, format=format)
    sizes = set()
    for round_number in range(8):
        process = subprocess.Popen(
            command("resize", disk, GROWN),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        time.sleep(0.2 + 0.05 * round_number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes.add(images.info(disk, format=format)["virtual-size"])
        assert sizes <= {SIZE, GROWN}
        assert images.same_content(disk, expected, formats=(format, "raw"))
        if format == "qcow2":
            assert "corruptions" not in check_leaky(disk)
    assert resized(disk, GROWN)["verdict"]["judgement"] == "meets"
    assert images.same_content(disk, expected, formats=(format, "raw"))
    assert sorted(os.listdir(directory)) == ["disk", "disk.content"]


def check_leaky(disk: Path) -> str:
    """Return what qemu-img check says of an image that may have leaks."""
    finished = subprocess.run(
        ["qemu-img", "check", "--output=json", "-f", "qcow2", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode in (0, 3)  # 3: leaks, and nothing worse
    return finished.stdout


@pytest.mark.filesystems("ext4")
def test_a_reserved_share_grows_with_the_disk(directory: Path) -> None:
    """Not to the whole disk: a plan that reserves a part takes a part."""
    disk = directory / "disk"
    provision(disk, "--size", SIZE, "--strategy", "partial")
    assert resized(disk, GROWN)["verdict"]["judgement"] == "meets"
    assert disk.stat().st_blocks * 512 < GROWN // 2
