"""What is known of tables is what reading them would tell, whoever changed what."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import shutil
import struct
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, ImageError, Policy, audit
from allocpolicy.observe import disk as observe
from allocpolicy.observe import known, memo
from allocpolicy.observe.known import Knowledge
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.qcow2 import survey as surveys
from allocpolicy.qcow2.header import read_header
from allocpolicy.qcow2.survey import Survey
from allocpolicy.qcow2.tables import OFFSET
from allocpolicy.record import replace
from allocpolicy.report.audit import Row
from allocpolicy.storage import (
    extent,
    mount,
    mounting,
    named_lock,
    trust,
    unchanged,
)
from tests.conftest import FreshFilesystem
from tests.harness import filesystems
from tests.harness.cli import provision
from tests.harness.images import qemu_img
from tests.harness.patience import PATIENCE
from tests.harness.qcow2_disks import CLUSTER, GiB, MiB, create, number, write

on_all = pytest.mark.filesystems("ext4", "xfs", "btrfs")
on_reflink = pytest.mark.filesystems("xfs", "btrfs")
POLICY = Policy(configured=False)
TRIAL = 16 << 10  # bytes; where statx(2) can't tell, a read tries direct I/O
_STEP = 0.2  # seconds: 20 ticks of the slowest clock; ours are ten times as many

Outcome = Survey | str


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Remember in a directory of this test's, which only we can change."""
    top = Path("/run" if os.geteuid() == 0 else Path.cwd())
    for one in (top, *top.parents):
        if trust.distrust(one.stat()) is not None:
            pytest.skip(f"others may change {one}")
    place = Path(tempfile.mkdtemp(dir=top, prefix="allocpolicy-test-"))
    monkeypatch.setattr(named_lock, "own_directory", lambda: place)
    yield place
    place.unlink() if place.is_symlink() else filesystems.remove_tree(place)


@pytest.fixture(autouse=True)
def settled_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_settled(state: unchanged.State, *, at: int) -> bool:
        return state[-1] < at - _STEP * 1e9

    monkeypatch.setattr(unchanged, "is_settled", is_settled)


def settled(*disks: Path) -> None:
    """Wait until the clock is past the disks' ctime for long enough."""
    for disk in disks:
        while (left := disk.stat().st_ctime + 1.1 * _STEP - time.time()) > 0:
            time.sleep(left)


def told(disk: Path, how: Callable[[int, Path], Survey]) -> Outcome:
    fd = os.open(disk, os.O_RDONLY)
    try:
        return how(fd, disk)
    except ImageError as error:
        return error.reason
    finally:
        os.close(fd)


def read(disk: Path) -> Outcome:
    """Return what its tables say."""
    return told(disk, lambda fd, path: surveys.of(fd, path=path))


def knows(disk: Path) -> Outcome:
    """Return what is known of them, and remember it."""
    return told(disk, lambda fd, path: known.survey(fd, path=path))


def is_known(disk: Path) -> bool:
    """Return whether nothing of the disk's tables would be read."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        name = memo.filesystem_of(fd)
        measured = extent.measure(fd, file_size=os.fstat(fd).st_size)
        assert name is not None
        assert measured is not None
        state, layout = unchanged.state(fd), measured.layout
        return memo.Memo(name).recalled(state, layout=layout) is not None
    finally:
        os.close(fd)


def looked(disk: Path, knowledge: Knowledge | None) -> object:
    """Return an observation, but for its storage, or why there is none."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        around = surroundings(fd, directory=disk.parent, policy=POLICY)
        if knowledge is not None:
            seen = knowledge.look(fd, path=disk, surroundings=around).observation
        else:
            format = DiskFormat.QCOW2
            look = observe.look(fd, path=disk, format=format, surroundings=around)
            seen = look.observation
    except ImageError as error:
        return error.reason
    else:
        # which changes by itself
        return replace(
            seen, actual_size=0, extents=None, shared_bytes=None, exception=None
        )
    finally:
        os.close(fd)


def rich(directory: Path, name: str = "rich.qcow2") -> Path:
    """Return a disk with every kind of metadata cluster."""
    disk = create(directory / name, GiB)
    write(disk, "write 0 1M", "write 700M 64k")
    qemu_img("snapshot", "-c", "before", disk)
    qemu_img("bitmap", "--add", disk, "changes")
    write(disk, "write 512k 1M")
    return disk


def prepared(directory: Path, name: str = "prepared.qcow2", size: int = GiB) -> Path:
    """Return a disk all of whose clusters are mapped."""
    return create(directory / name, size, "preallocation=metadata")


def places(disk: Path) -> dict[str, int]:
    """Return where one cluster of each kind of metadata begins."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        header = read_header(fd, path=disk)
    finally:
        os.close(fd)
    l1, table = header.l1_offset, header.refcount_table_offset
    found = {
        "header": 0,
        "L1 table": l1,
        "L2 table": number(disk, l1) & OFFSET,
        "refcount table": table,
        "refcount block": number(disk, table),
    }
    if header.snapshots:
        found["snapshot table"] = header.snapshots_offset
    if header.bitmap_directory is not None:
        found["bitmap directory"] = header.bitmap_directory.offset
    return found


def by_write(disk: Path, offset: int, bit: int) -> None:
    with disk.open("r+b", buffering=0) as stream:
        byte = os.pread(stream.fileno(), 1, offset)[0]
        os.pwrite(stream.fileno(), bytes([byte ^ 1 << bit]), offset)


def by_write_with_old_dates(disk: Path, offset: int, bit: int) -> None:
    status = disk.stat()
    by_write(disk, offset, bit)
    os.utime(disk, ns=(status.st_atime_ns, status.st_mtime_ns))


def by_mapping(disk: Path, offset: int, bit: int) -> None:
    with (
        disk.open("r+b", buffering=0) as stream,
        mmap.mmap(stream.fileno(), 0) as memory,
    ):
        memory[offset] ^= 1 << bit


HOW = (by_write, by_write_with_old_dates, by_mapping)
KINDS = (
    *("header", "L1 table", "L2 table", "refcount table", "refcount block"),
    *("snapshot table", "bitmap directory"),
)


@on_all
@pytest.mark.parametrize("how", HOW)
def test_a_flipped_bit_in_any_metadata_is_seen(
    directory: Path, how: Callable[[Path, int, int], None]
) -> None:
    """Whatever is written to a file that is known, and however, it is read again."""
    whole = rich(directory)
    assert tuple(places(whole)) == KINDS
    disks = {kind: directory / f"{index}.qcow2" for index, kind in enumerate(KINDS)}
    for disk in disks.values():
        shutil.copyfile(whole, disk)
    settled(*disks.values())
    chance = random.Random(1)
    for kind, disk in disks.items():
        before = read(disk)
        assert knows(disk) == before
        assert is_known(disk), kind
        assert knows(disk) == before
        how(disk, places(disk)[kind] + chance.randrange(8), chance.randrange(8))
        assert not is_known(disk), kind
        assert knows(disk) == read(disk), kind


@on_all
def test_a_change_just_after_a_look_is_seen(directory: Path) -> None:
    """A second write in the tick of the first may change no date: it isn't relied on.

    From Linux 6.13 on a date that somebody has seen is changed by the next write.
    """
    disk = prepared(directory, size=64 * MiB)
    l2 = places(disk)["L2 table"]
    for number_of_entry in range(50):
        by_write(disk, l2 + 8 * number_of_entry + 7, 0)
        assert knows(disk) == read(disk)
        assert not is_known(disk) or time.time() > disk.stat().st_ctime + _STEP
        by_write(disk, l2 + 8 * number_of_entry, 7)
        assert not is_known(disk)
        assert knows(disk) == read(disk)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_change_whose_date_was_lost_is_seen(
    fresh_filesystem: FreshFilesystem, kind: str
) -> None:
    """fdatasync(2) stores data and no ctime, and the filesystem may lose its device."""
    top = fresh_filesystem(kind)
    disk = prepared(top, size=64 * MiB)
    os.sync()
    settled(disk)
    before, dates = knows(disk), disk.stat()
    assert is_known(disk)
    place = places(disk)["L2 table"]
    with disk.open("r+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), b"\0", place)
        os.fdatasync(stream.fileno())
    lose_device(top)
    remount(top)
    assert disk.stat().st_ctime_ns == dates.st_ctime_ns
    assert not is_known(disk)
    assert knows(disk) == read(disk) != before


@pytest.mark.filesystems("ext2", "ext4", "xfs", "btrfs")
def test_each_mounting_has_a_number(directory: Path) -> None:
    """What isn't open for reading may have none, but no wrong one."""
    found = []
    for flags in (os.O_RDONLY, os.O_PATH):
        fd = os.open(directory, flags | os.O_DIRECTORY)
        try:
            found.append(mounting.number(fd))
        finally:
            os.close(fd)
    readable, unreadable = found
    assert readable is not None
    assert unreadable in (readable, None)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_what_is_mounted_again_is_read(
    fresh_filesystem: FreshFilesystem, memory: Path, kind: str
) -> None:
    """One memo of a filesystem is kept, of how it is mounted now."""
    top = fresh_filesystem(kind)
    disk = prepared(top, size=64 * MiB)
    settled(disk)
    before = knows(disk)
    for _ in range(2):
        assert is_known(disk)
        remount(top)
        assert not is_known(disk)
        assert knows(disk) == before
    assert len([*memory.iterdir()]) == 1


def lose_device(top: Path) -> None:
    """Have a filesystem stop at once, as it does when its device is gone.

    What is in memory only is lost, the log's end too (FS_SHUTDOWN_FLAGS_NOLOGFLUSH).
    """
    fd = os.open(top, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x8004587D, struct.pack("=I", 2))
    finally:
        os.close(fd)


def remount(top: Path) -> None:
    """Unmount a filesystem and mount it again, on the same loop device."""
    fd = os.open(top, os.O_PATH)
    try:
        found = mount.of(fd)
        source = Path(found.source)
    finally:
        os.close(fd)
    with source.open("rb"):  # else the loop device goes with the mount
        filesystems.unmount(top)
        options = filesystems.NODISCARD.get(found.type, ("rw",))
        filesystems.mount(found.type, source=source, mount_point=top, options=options)


@on_all
def test_who_has_it_open_for_writing_may_yet_change_it(directory: Path) -> None:
    """A page that was mapped and stored to before changes no date when it is again."""
    disk = prepared(directory, size=64 * MiB)
    with disk.open("r+b", buffering=0) as stream:
        memory = mmap.mmap(stream.fileno(), 0)
    with memory:
        memory[0x8000] ^= 1
        memory[0x8000] ^= 1
        settled(disk)
        knows(disk)
        assert not is_known(disk)
        memory[places(disk)["L2 table"]] ^= 0x80
        assert knows(disk) == read(disk)
    settled(disk)
    knows(disk)
    assert is_known(disk)


@on_all
def test_another_file_of_the_name_or_of_the_number_is_another(directory: Path) -> None:
    """What is restored, renamed to it or made anew in its place is read."""
    disk = prepared(directory, size=64 * MiB)
    other = prepared(directory, "other.qcow2", 64 * MiB)
    by_write(other, places(other)["L2 table"], 7)
    shutil.copystat(disk, other)
    settled(disk, other)
    knows(disk)
    assert is_known(disk)
    other.rename(disk)
    assert not is_known(disk)
    assert knows(disk) == read(disk)
    settled(disk)
    knows(disk)
    ino = disk.stat().st_ino
    dates = disk.stat()
    content = disk.read_bytes()
    disk.unlink()
    disk.write_bytes(content)
    os.utime(disk, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert not is_known(disk), disk.stat().st_ino == ino
    assert knows(disk) == read(disk)


@pytest.mark.filesystems("ext4")
def test_a_file_that_gave_its_blocks_away_is_read(directory: Path) -> None:
    """EXT4_IOC_MOVE_EXT takes a donor's blocks, and its ctime stays what it was."""
    move = struct.Struct("=IIQQQQ")  # reserved, donor, two starts, length, moved
    disk, other = prepared(directory, size=64 * MiB), directory / "other"
    other.write_bytes(bytes(4 * CLUSTER))
    settled(disk)
    before = knows(disk)
    assert is_known(disk)
    state = disk.stat()
    with other.open("r+b") as origin, disk.open("r+b") as donor:
        os.fsync(origin.fileno())
        given = move.pack(0, donor.fileno(), 0, 0, 4 * CLUSTER // 4096, 0)
        fcntl.ioctl(origin, 0xC028660F, bytearray(given))
    assert disk.stat().st_ctime_ns == state.st_ctime_ns
    forget_pages(disk)
    assert knows(disk) == read(disk) != before


@on_all
def test_what_others_may_have_written_is_not_believed(
    directory: Path, memory: Path
) -> None:
    """A memo of another user's, or that others may write to, is as none."""
    disk = prepared(directory)
    settled(disk)
    knows(disk)
    (file,) = memory.iterdir()
    assert is_known(disk)
    changes: tuple[Callable[[], None], ...] = (
        lambda: file.chmod(0o666),
        lambda: os.chown(file, 65534, -1),
        lambda: memory.chmod(0o777),
    )
    for change in changes:
        change()
        assert not is_known(disk)
        assert knows(disk) == read(disk)
        file.chmod(0o600)
        os.chown(file, os.geteuid(), -1)
        memory.chmod(0o700)
        knows(disk)
        assert is_known(disk)


@pytest.mark.filesystems("xfs")
def test_a_memo_that_is_wrong_is_as_none(directory: Path, memory: Path) -> None:
    """Cut short, empty, of another version or changed: it is no error, and read."""
    disk = prepared(directory)
    settled(disk)
    before = knows(disk)
    (file,) = memory.iterdir()
    whole = file.read_bytes()
    wrong = [b"", b"{}", whole[:-1], whole[: len(whole) // 2], whole + b" "]
    chance = random.Random(2)
    for _ in range(40):
        changed = bytearray(whole)
        changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        wrong.append(bytes(changed))
    earlier = b'{"reader": ["of an earlier version"]}'
    wrong.append(b"%08x\n" % zlib.crc32(earlier) + earlier)
    for content in wrong:
        file.write_bytes(content)
        assert not is_known(disk)
        assert knows(disk) == before
        file.write_bytes(whole)
        assert is_known(disk)


@pytest.mark.filesystems("xfs")
def test_where_nothing_can_be_remembered_all_is_read(
    directory: Path, memory: Path
) -> None:
    disk = prepared(directory)
    settled(disk)
    memory.rmdir()
    memory.symlink_to("/proc")  # where nothing can be made
    assert knows(disk) == read(disk)
    assert not is_known(disk)


def test_what_tmpfs_shows_is_not_relied_on() -> None:
    """A store through a mapping on tmpfs changes no date."""
    disk = Path("/dev/shm") / f"allocpolicy-{os.getpid()}.qcow2"
    try:
        create(disk, 64 * MiB, "preallocation=metadata")
        fd = os.open(disk, os.O_RDONLY)
        try:
            assert memo.filesystem_of(fd) is None
        finally:
            os.close(fd)
    finally:
        disk.unlink(missing_ok=True)


@on_reflink
def test_the_tables_of_a_clone_are_known(directory: Path) -> None:
    """A clone is what reading it would tell, and not one page of it is read."""
    original = prepared(directory)
    clones = [reflinked(original, directory / f"{index}") for index in range(3)]
    settled(original)
    knowledge = Knowledge()
    assert looked(original, knowledge) == looked(original, None)
    for clone in clones:
        forget_pages(clone)
        found = looked(clone, knowledge)
        assert resident(clone) <= TRIAL
        assert found == looked(clone, None)
        assert resident(clone) > 0


@on_reflink
def test_a_flipped_bit_in_any_metadata_of_a_clone_is_seen(directory: Path) -> None:
    """Blocks that a clone shares can't have changed; any other are compared."""
    original = prepared(directory)
    knowledge = knowing(original)
    chance = random.Random(3)
    for kind, start in places(original).items():
        for how in HOW:
            for _ in range(6):
                clone = reflinked(original, directory / "clone")
                at, bit = start + chance.randrange(64), chance.randrange(8)
                how(clone, at, bit)
                found = looked(clone, knowledge)
                assert found == looked(clone, None), (kind, how, at, bit)
                clone.unlink()


@on_reflink
def test_a_clone_that_its_guest_wrote_to_is_known(directory: Path) -> None:
    """Data, and clusters that read as zeroes, need no other table to be read."""
    original = directory / "original.qcow2"
    provision(original, "--strategy", "performance", "--size", 100 * GiB)
    clone = reflinked(original, directory / "clone")
    knowledge = knowing(original)
    write(clone, *(f"write {at}M 64k" for at in range(0, 1000, 100)))
    write(clone, "write -z 300M 1M", "write 301M 64k")
    forget_pages(clone)
    found = looked(clone, knowledge)
    assert resident(clone) <= 4 * CLUSTER
    assert found == looked(clone, None)


@on_reflink
def test_a_clone_whose_mapping_changed_is_read(directory: Path) -> None:
    original = prepared(directory)
    clone = reflinked(original, directory / "clone")
    knowledge = knowing(original)
    write(clone, "discard 300M 1M")
    found = looked(clone, knowledge)
    assert found == looked(clone, None)
    assert getattr(found, "unmapped", 0) == MiB


@on_reflink
def test_a_clone_of_what_has_changed_is_read(directory: Path) -> None:
    """Who is compared with must be as it was; a file that is gone is no measure."""
    original = prepared(directory)
    knowledge = knowing(original)
    by_write(original, places(original)["L2 table"], 7)
    clone = reflinked(original, directory / "clone")
    assert looked(clone, knowledge) == looked(clone, None)
    original.unlink()
    again = reflinked(clone, directory / "again")
    assert looked(again, knowledge) == looked(again, None)


@on_reflink
def test_a_template_that_nobody_may_write_to_is_remembered(directory: Path) -> None:
    """What disks are made from is read once: a later process knows them all by it."""
    template = prepared(directory)
    template.chmod(0o444)
    settled(template)
    knows(template)
    clone = reflinked(template, directory / "clone")
    forget_pages(clone)
    found = looked(clone, Knowledge())
    assert resident(clone) <= TRIAL
    assert found == looked(clone, None)


@on_all
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_audit_reads_what_changed_and_only_that(directory: Path, jobs: int) -> None:
    """The second audit's rows are the first one's, whatever process learnt of it."""
    disks = [directory / f"{index}.qcow2" for index in range(3)]
    for disk in disks:
        provision(disk, "--strategy", "performance", "--size", 8 * GiB)
    settled(*disks)
    before = rows_of(directory, jobs=jobs)
    for disk in disks:
        forget_pages(disk)
    assert rows_of(directory, jobs=jobs) == before
    assert all(resident(disk) <= TRIAL for disk in disks)
    by_write(disks[1], places(disks[1])["L2 table"], 7)
    after = rows_of(directory, jobs=jobs)
    assert after == rows_of(directory, jobs=jobs, read_all=True)
    assert [row.disk for row in after if row not in before] == [disks[1]]
    forget_pages(disks[0])
    rows_of(directory, jobs=jobs, read_all=True)
    assert resident(disks[0]) > TRIAL


def rows_of(directory: Path, *, jobs: int, read_all: bool = False) -> list[Row]:
    """Return an audit's rows, but for storage, which changes by itself."""
    found = audit([directory], policy=POLICY, jobs=jobs, read_all=read_all)
    return [replace(row, observed=None, actual_size=0) for row in found.rows]


@on_all
def test_blocks_at_an_equal_place_prove_nothing(directory: Path) -> None:
    """A file is overwritten in place: its extents are what they were, and it is read.

    Not so on btrfs, which writes to other places, nor where files share.
    """
    disk = prepared(directory)
    settled(disk)
    knowledge = Knowledge()
    looked(disk, knowledge)
    by_write(disk, places(disk)["L2 table"], 7)
    os.sync()
    assert looked(disk, knowledge) == looked(disk, None)


def knowing(original: Path) -> Knowledge:
    """Return what knows a file, and by it its clones."""
    clone = reflinked(original, original.with_name("unchanged"))
    settled(original)
    knowledge = Knowledge()
    looked(original, knowledge)
    forget_pages(clone)
    looked(clone, knowledge)
    assert resident(clone) <= TRIAL
    return knowledge


def reflinked(original: Path, clone: Path) -> Path:
    subprocess.run(["cp", "--reflink=always", original, clone], check=True)
    return clone


def forget_pages(disk: Path) -> None:
    """Write everything out, and have none of a file's pages in memory.

    Btrfs shows what is shared once that is committed. A page that somebody holds at
    that moment, such as another processor's queue, isn't dropped yet.
    """
    os.sync()
    deadline = time.monotonic() + PATIENCE
    fd = os.open(disk, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while resident(disk):
            assert time.monotonic() < deadline
            time.sleep(0.01)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def resident(disk: Path) -> int:
    """Return how many bytes of a file are in memory, because somebody read them."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(disk)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)
