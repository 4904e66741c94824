"""What kernels and filesystems do with a file, as our mechanism reads it."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from allocpolicy.images import stamp
from allocpolicy.storage import (
    directories,
    extent,
    fallocate,
    filesystem,
    inode_flags,
    lease,
    qemu_lock,
    space,
    sparse,
    zeroes,
)
from allocpolicy.storage.filesystem import Filesystem
from allocpolicy.storage.inode_flags import InodeFlag
from tests.harness import filesystems
from tests.harness.cli import provision
from tests.harness.filesystems import mount, unmount
from tests.harness.images import MIB

PICTURE = (
    ("data", MIB),
    ("hole", 2 * MIB),
    ("unwritten", 3 * MIB),
    ("data", MIB),
    ("hole", MIB),
)

CHROOT = """
import os, sys
from allocpolicy.storage import mount
os.chroot(sys.argv[1])
found = mount.of(os.open("/", os.O_RDONLY))
print(found.type, found.source, found.device)
"""


def probe(path: Path) -> Filesystem:
    with directories.opened(path) as directory:
        return filesystem.probe(directory)


@pytest.fixture
def file(directory: Path) -> Iterator[int]:
    with (directory / "file").open("w+b") as opened:
        yield opened.fileno()


def draw(fd: int, picture: Sequence[tuple[str, int]]) -> None:
    """Make a file that looks like the picture."""
    offset = 0
    for state, length in picture:
        if state == "data":
            os.pwrite(fd, b"x" * length, offset)
        elif state == "unwritten":
            fallocate.allocate(fd, offset=offset, length=length)
        offset += length
    os.ftruncate(fd, offset)
    os.fsync(fd)


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_extents_are_as_they_were_drawn(file: int) -> None:
    draw(file, PICTURE)
    size = os.fstat(file).st_size
    summary = extent.summarise(file, file_size=size)
    assert summary is not None
    assert (summary.written, summary.shared) == (2 * MIB, 0)
    # xfs may have allocated holes ahead of the writes.
    assert summary.unwritten >= 3 * MIB
    assert summary.written + summary.unwritten + summary.hole == size
    found = list(extent.extents(file))
    assert found == sorted(found, key=lambda one: one.offset)


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_data_is_where_both_ways_of_looking_find_it(file: int) -> None:
    """SEEK_HOLE may lie on some kernels; FIEMAP is asked there."""
    draw(file, PICTURE)
    size = os.fstat(file).st_size

    def covered(runs: Iterator[tuple[int, int]]) -> set[int]:
        return {
            block
            for offset, length in runs
            for block in range(offset // 4096, -(-(offset + length) // 4096))
        }

    for start, end in ((0, size), (4096, size - 4096), (MIB // 2, 5 * MIB)):
        by_seek = covered(sparse.data_by_seek(file, start=start, end=end))
        assert by_seek == covered(extent.written(file, start=start, end=end))


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_thousands_of_extents_are_read_in_batches(file: int) -> None:
    block, count = 4096, 3000
    for number in range(count):
        os.pwrite(file, b"x" * block, number * 2 * block)
    size = os.fstat(file).st_size
    summary = extent.summarise(file, file_size=size)
    assert summary is not None
    assert summary.count >= count  # xfs has unwritten ones between
    assert summary.written == count * block


@pytest.mark.filesystems("tmpfs")
def test_where_there_is_no_fiemap_there_is_no_summary(file: int) -> None:
    assert extent.summarise(file, file_size=0) is None


@pytest.mark.filesystems("xfs", "btrfs")
def test_a_reflinked_file_is_shared(directory: Path, file: int) -> None:
    draw(file, [("data", MIB)])
    source, target = str(directory / "file"), str(directory / "clone")
    subprocess.run(["cp", "--reflink=always", source, target], check=True)
    summary = extent.summarise(file, file_size=MIB)
    assert summary is not None
    assert summary.shared == MIB


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs", "ext2")
def test_zeroes_fill_the_holes_and_nothing_else(file: int) -> None:
    picture = [one for one in PICTURE if one[0] != "unwritten"]
    draw(file, picture)
    size = os.fstat(file).st_size
    before = os.pread(file, size, 0)
    written = 0

    def advance(length: int) -> None:
        nonlocal written
        written += length

    for offset, length in list(sparse.holes(file)):
        zeroes.write(file, offset=offset, length=length, advance=advance)
    os.fsync(file)
    assert written == 3 * MIB
    assert list(sparse.holes(file)) == []
    assert os.pread(file, size, 0) == before
    assert os.fstat(file).st_blocks * 512 >= size


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs", "ext2")
def test_what_a_filesystem_can_do_is_found_by_trying(
    directory: Path, filesystem_kind: str
) -> None:
    filesystems.available(directory)
    before = directory.stat().st_mtime_ns
    found = probe(directory)
    status = os.statvfs(directory)
    assert found.type == filesystem_kind
    assert found.size == status.f_blocks * status.f_frsize
    assert abs(found.free - status.f_bavail * status.f_frsize) < MIB
    assert found.fallocate is (filesystem_kind != "ext2")
    assert found.nocow is (filesystem_kind == "btrfs")
    assert found.user_xattr
    assert directory.stat().st_mtime_ns == before


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_what_was_removed_is_free_once_the_books_are_still(directory: Path) -> None:
    """Xfs frees it in the background, and syncfs(2) doesn't wait for that."""
    removed = directory / "removed"
    free = filesystems.available(directory)
    filesystems.run("fallocate", "--length", str(256 * MIB), removed)
    os.sync()
    fd = os.open(directory, os.O_RDONLY)
    try:
        removed.unlink()
        space.settle(fd)
        space.wait_until_still(fd)
        assert free - space.of(fd).free < MIB
    finally:
        os.close(fd)


@pytest.mark.filesystems("ext4")
def test_bind_mounts_of_a_filesystem_have_its_key(directory: Path) -> None:
    other = directory / "bind"
    other.mkdir()
    subprocess.run(["mount", "--bind", directory.parent, other], check=True)
    try:
        assert probe(other).key == probe(directory).key
    finally:
        subprocess.run(["umount", other], check=True)


@pytest.mark.filesystems("btrfs")
def test_subvolumes_of_a_filesystem_have_its_key(directory: Path) -> None:
    volume = directory / "volume"
    subprocess.run(["btrfs", "-q", "subvolume", "create", volume], check=True)
    try:
        assert probe(volume).key == probe(directory).key
    finally:
        subprocess.run(["btrfs", "-q", "subvolume", "delete", volume], check=True)


@pytest.fixture
def overlay(directory: Path) -> Iterator[Path]:
    """Give an overlay mount over directories of the filesystem."""
    layers = directory / "lay ers"
    for name in ("lower", "upper", "work", "merged"):
        (layers / name).mkdir(parents=True)
    options = [
        f"{name}dir={layers}/{name.removesuffix('dir')}"
        for name in ("lower", "upper", "work")
    ]
    merged = layers / "merged"
    mount("overlay", source=Path("overlay"), mount_point=merged, options=options)
    yield merged
    unmount(merged)


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
def test_an_overlay_is_what_its_upper_directory_is(
    directory: Path, overlay: Path
) -> None:
    below, found = (
        probe(directory),
        probe(overlay),
    )
    assert found.type == "overlay"
    assert found.key == below.key
    assert found.copy_on_write is below.copy_on_write
    assert found.nocow is below.nocow


@pytest.mark.filesystems("xfs", "btrfs")
def test_on_an_overlay_a_reservation_is_the_disks_own(
    overlay: Path, filesystem_kind: str
) -> None:
    report = provision(overlay / "disk", "--size", "32M", "--strategy", "space")
    assert report["observed"]["allocation"] == "reserved"
    assert report["observed"]["guaranteed"]
    with (overlay.with_name("upper") / "disk").open("rb") as disk:
        is_nocow = inode_flags.has(disk.fileno(), InodeFlag.NOCOW)
    assert is_nocow is (filesystem_kind == "btrfs")


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("instead", ["nothing", "another filesystem"])
def test_nothing_is_claimed_where_the_storage_of_an_overlay_is_not_to_be_seen(
    directory: Path, overlay: Path, tmp_path: Path, instead: str
) -> None:
    """A container's overlay names its upper directory as the host sees it."""
    bound = tmp_path / "overlay"
    bound.mkdir()
    mount("none", source=overlay, mount_point=bound, options=["bind"])
    layers = overlay.parent
    mount("tmpfs", source=Path("tmpfs"), mount_point=layers, options=["size=1M"])
    try:
        if instead != "nothing":
            (layers / "upper").mkdir()
        found = probe(bound)
        assert (found.copy_on_write, found.nocow) == (True, False)
        report = provision(bound / "disk", "--size", "32M", "--strategy", "space")
    finally:
        unmount(layers)
        unmount(bound)
    assert report["observed"]["allocation"] == "unverifiable"
    assert not report["observed"]["guaranteed"]


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
def test_in_a_chroot_the_device_tells_which_filesystem_it_is(
    directory: Path, filesystem_kind: str
) -> None:
    """There the mount of a plain directory is not in mountinfo."""
    (directory / "proc").mkdir()
    script = 'mount --bind /proc "$2/proc" && exec "$0" -c "$1" "$2"'
    finished = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, CHROOT, directory],
        capture_output=True,
        text=True,
        check=True,
    )
    number = directory.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    assert finished.stdout.split() == [filesystem_kind, "device", device]


def test_mechanism_leaves_the_stamp_alone() -> None:
    """What can carry a stamp is tried under another name: stamps are policy."""
    source = Path(filesystem.__file__).read_text()
    assert stamp.XATTR not in source


@pytest.mark.filesystems("btrfs")
def test_nocow_is_taken_while_the_file_is_empty(file: int) -> None:
    assert not inode_flags.has(file, InodeFlag.NOCOW)
    inode_flags.add(file, InodeFlag.NOCOW)
    assert inode_flags.has(file, InodeFlag.NOCOW)


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_a_lease_tells_whether_a_file_is_open_elsewhere(
    directory: Path, file: int
) -> None:
    assert not lease.is_open_elsewhere(file)
    with (directory / "file").open("rb"):
        assert lease.is_open_elsewhere(file)
    assert not lease.is_open_elsewhere(file)


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_a_lease_that_ran_out_is_no_error_of_its_own(file: int) -> None:
    """After /proc/sys/fs/lease-break-time it is gone; what gave up says why."""
    with lease.held(file):
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert not lease.is_whole(file)


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
@pytest.mark.parametrize(
    ("byte", "writes"), [(100, False), (101, True), (103, True), (201, False)]
)
def test_qemus_lock_bytes_tell_a_writer_from_a_reader(
    directory: Path, file: int, byte: int, *, writes: bool
) -> None:
    wanted = struct.pack("=hhxxxxqqixxxx", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
    with (directory / "file").open("r+b") as other:
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, wanted)
        assert qemu_lock.held_for_writing(file) is writes
    assert not qemu_lock.held_for_writing(file)
