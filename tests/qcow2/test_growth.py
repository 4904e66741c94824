"""Growing qcow2 images in place, with qemu-img and qemu-io as the oracles."""

from __future__ import annotations

import os
import signal
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.qcow2 import geometry, growth, refcounts, writer
from allocpolicy.qcow2.consistency import checked as checked_tables
from allocpolicy.qcow2.growth_layout import layout
from allocpolicy.qcow2.header import read_header
from allocpolicy.qcow2.tables import OFFSET
from allocpolicy.qcow2.writer import Backing
from tests.harness import images
from tests.harness.images import qemu_img
from tests.harness.power_cut import Recorder
from tests.harness.qcow2_disks import (
    CLUSTER,
    GiB,
    KiB,
    MiB,
    TiB,
    check,
    create,
    data_file,
    entry,
    header_of,
    l2_of,
    mapped_clusters,
    number,
    patch,
    snapshot,
    write,
)
from tests.harness.qcow2_writes import guest_commands, qemu_io

pytestmark = pytest.mark.qemu
CLUSTER_SIZES = [512 << shift for shift in range(13)]
LEAKS, SOUND = 3, 0  # exit statuses of qemu-img check


def ignored(count: int) -> None:
    """Take a progress call that the test has no use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """An image, what its guest did, and how far it grows."""

    maker: str  # qemu, unmapped, mapped
    cluster_size: int
    old_size: int
    new_size: int
    mapped: bool
    backed: bool
    commands: tuple[str, ...]
    shrunk: bool = False  # it was of the new size before: its tables say so still

    @property
    def extended_l2(self) -> bool:
        return self.backed and (self.mapped or self.maker == "mapped")


@st.composite
def growths(draw: st.DrawFn, *, most_size: int = 2 * GiB) -> Growth:
    """Draw sizes near to where tables end; the content is little."""
    maker = draw(st.sampled_from(["qemu", "unmapped", "mapped"]))
    mapped = maker == "mapped" or draw(st.booleans())
    backed = draw(st.booleans())
    extended = backed and mapped
    cluster_size = draw(
        st.sampled_from([size for size in CLUSTER_SIZES if size >= 16 * KiB])
        if extended
        else st.sampled_from(CLUSTER_SIZES)
    )
    old_size, new_size = sorted(
        draw(disk_sizes(cluster_size=cluster_size, most_size=most_size))
        for _ in range(2)
    )
    assume(old_size < new_size)
    shrunk = draw(st.sampled_from([False, False, True]))
    kinds = ["write", "write -z", "discard"]
    if not extended and not shrunk:
        kinds.append("write -c")
    commands = draw(
        guest_commands(
            virtual_size=new_size if shrunk else old_size,
            cluster_size=cluster_size,
            kinds=tuple(kinds),
            most=4,
        )
    )
    return Growth(
        maker=maker,
        cluster_size=cluster_size,
        old_size=old_size,
        new_size=new_size,
        mapped=mapped,
        backed=backed,
        commands=tuple(commands),
        shrunk=shrunk,
    )


def disk_sizes(*, cluster_size: int, most_size: int) -> st.SearchStrategy[int]:
    """Draw virtual sizes; an L2 table maps an eighth of a cluster's bytes, or half."""
    per_table = cluster_size // 8
    edges = [1, 2, per_table // 2, per_table, 2 * per_table, 8 * per_table]
    near = st.tuples(
        st.sampled_from([edge * cluster_size for edge in edges if edge]),
        st.sampled_from([-512, 0, 512]),
    ).map(sum)
    most = min(3000 * cluster_size, most_size)
    anywhere = st.integers(1, most // 512).map(lambda sectors: sectors * 512)
    return (near | anywhere).filter(lambda size: 0 < size <= most)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grown")


def make(case: Growth, place: Path) -> Path:
    """Make the image; its backing file, if any, is a sector shorter, and full."""
    disk, base = place / "disk.qcow2", place / "base.raw"
    disk.unlink(missing_ok=True)
    backing = None
    if case.backed:
        base.write_bytes(b"\xbb" * min(case.old_size, MiB + 512))
        backing = Backing(path=base, format="raw")
    size = case.new_size if case.shrunk else case.old_size
    if case.maker == "qemu":
        options = f"cluster_size={case.cluster_size}"
        options += f",extended_l2={'on' if case.extended_l2 else 'off'}"
        behind = ["-b", base, "-F", "raw"] if backing else []
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, *behind, disk, size)
    else:
        whole = geometry.geometry(
            size, cluster_size=case.cluster_size, extended_l2=case.extended_l2
        )
        with disk.open("w+b") as file:
            if case.maker == "mapped":
                writer.write_mapped(
                    file.fileno(), whole, backing=backing, advance=ignored
                )
            else:
                writer.write_unmapped(file.fileno(), whole, backing=backing)
    qemu_io(disk, list(case.commands), discard="unmap")
    patch(disk, 24, entry(case.old_size))
    return disk


def grow(disk: Path, case: Growth, *, new_size: int = 0) -> None:
    fd = os.open(disk, os.O_RDWR)
    backing = disk.with_name("base.raw").stat().st_size if case.backed else 0
    size = new_size or case.new_size
    try:
        header = read_header(fd, path=disk)
        plan = layout(fd, header, path=disk, virtual_size=size, mapped=case.mapped)
        whole = -(-os.fstat(fd).st_size // plan.size)
        growth.grow(
            fd,
            header,
            path=disk,
            virtual_size=size,
            mapped=case.mapped,
            backing_size=backing,
            advance=ignored,
        )
        end = plan.end if plan.end > plan.start else whole
        assert os.fstat(fd).st_size == end * plan.size
    finally:
        os.close(fd)


def content(disk: Path) -> bytes:
    """Return what a guest reads, by QEMU; of large disks the first 8 MiB."""
    raw = disk.with_suffix(".raw")
    size = min(8 * MiB, header_of(disk).virtual_size)
    file = f"file.driver=qcow2,file.file.driver=file,file.file.filename={disk}"
    limit = f"driver=raw,size={size},{file}"
    qemu_img("convert", "--image-opts", "-O", "raw", limit, raw)
    return raw.read_bytes()


def checked(disk: Path) -> int:
    """Return the exit status of qemu-img check; our own reader accepts the tables.

    It refuses L2 tables beyond the virtual size, which a shrunk image has.
    """
    header = header_of(disk)
    if header.l1_entries == header.needed_l1_entries:
        check(disk)
    command = ["qemu-img", "check", "-q", "-f", "qcow2", str(disk)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def unmapped_clusters(disk: Path) -> int:
    header = header_of(disk)
    return -(-header.virtual_size // header.cluster_size) - mapped_clusters(disk)


@settings(max_examples=80)
@given(case=growths())
def test_a_grown_image_is_sound(case: Growth, place: Path) -> None:
    """No leak; old content stays; the rest is zero, and can be written."""
    disk = make(case, place)
    before = content(disk)
    unmapped = unmapped_clusters(disk)
    grow(disk, case)
    assert checked(disk) == SOUND or (case.shrunk and checked(disk) == LEAKS)
    assert header_of(disk).virtual_size == case.new_size
    assert images.info(disk, format="qcow2")["virtual-size"] == case.new_size
    after = content(disk)
    assert after[: len(before)] == before
    assert not after[len(before) :].strip(b"\0")
    if case.mapped:
        assert unmapped_clusters(disk) == unmapped
        if not unmapped and not case.backed:  # QEMU shows the base image's data
            assert images.fully_mapped(disk)
    assert_new_range_is_the_guests(disk, case, before)


def assert_new_range_is_the_guests(disk: Path, case: Growth, before: bytes) -> None:
    length = min(case.new_size - case.old_size, 8 * MiB)
    qemu_io(
        disk,
        [
            f"read -P 0 {case.old_size} {length}",
            f"read -P 0 {case.new_size - length} {length}",
            f"write -P 7 {case.old_size} {length}",
            f"write -P 7 {case.new_size - length} {length}",
            f"read -P 7 {case.old_size} {length}",
        ],
        discard="ignore",
    )
    assert checked(disk) == SOUND or (case.shrunk and checked(disk) == LEAKS)
    assert content(disk)[: len(before)] == before


class Killer:
    """Stands before the calls that change a file; kills its process at the n-th."""

    def __init__(self, *, at: int) -> None:
        self.left = at

    def guard(self, call: Callable[..., int | None]) -> Callable[..., int | None]:
        def guarded(*arguments: object) -> int | None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return guarded


CALLS = ("pwrite", "fsync", "ftruncate")


def killed_while_growing(disk: Path, case: Growth, *, at: int) -> bool:
    """Grow in a child process that dies before its n-th call; False: it got through."""
    child = os.fork()
    if not child:  # pragma: no cover
        killer = Killer(at=at)
        for name in CALLS:
            setattr(os, name, killer.guard(getattr(os, name)))
        try:
            grow(disk, case)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def crashing(function: Callable[..., None]) -> Callable[..., None]:
    """Try a law of crashes on drawn growths, and on those where most is at stake."""
    tiny = Growth(
        maker="qemu",
        cluster_size=512,
        old_size=4 * MiB,
        new_size=9 * MiB,
        mapped=True,
        backed=False,
        commands=("write -P 3 0 4M",),
    )
    # The L1 table moves, the refcount table stays.
    l1 = replace(tiny, old_size=MiB, new_size=4 * MiB, commands=("write -P 3 0 1M",))
    shrunk = replace(l1, shrunk=True, commands=("write -P 3 0 4M",))
    within = replace(
        shrunk, cluster_size=64 * KiB, old_size=MiB + 512, new_size=2 * MiB
    )
    within = replace(within, commands=("write -P 3 0 2M",))
    # The refcount table moves, and counts nothing new yet.
    later = replace(tiny, old_size=512, new_size=8222208, mapped=False, commands=())
    for case in tiny, l1, later, shrunk, within, replace(within, mapped=False):
        function = example(case=case)(function)
    drawn = given(case=growths(most_size=16 * MiB))(function)
    return settings(max_examples=8)(drawn)


@crashing
def test_a_kill_at_any_call_leaves_the_old_size_or_the_new(
    case: Growth, place: Path
) -> None:
    """All content is there, nothing is broken, and growing again gets through."""
    disk = make(case, place)
    original, before = disk.read_bytes(), content(disk)
    at, sizes = 0, []
    while True:
        disk.write_bytes(original)
        killed = killed_while_growing(disk, case, at=at)
        sizes.append(assert_old_or_new(disk, case, before))
        if not killed:
            break
        at += 1
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (case.old_size, case.new_size)


def assert_old_or_new(disk: Path, case: Growth, before: bytes) -> int:
    """Check an image whose growth was interrupted, and return its virtual size."""
    assert checked(disk) in (SOUND, LEAKS)
    found = header_of(disk).virtual_size
    assert found in (case.old_size, case.new_size)
    after = content(disk)
    assert after[: len(before)] == before
    assert not after[len(before) :].strip(b"\0")
    return found


@crashing
def test_a_power_cut_leaves_the_old_size_or_the_new(case: Growth, place: Path) -> None:
    """Of what was not yet synced any sector may be on the disk, or not."""
    disk = make(case, place)
    original, before = disk.read_bytes(), content(disk)
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "pwrite", recorder.pwrite)
        monkeypatch.setattr(os, "fsync", recorder.fsync)
        grow(disk, case)
    size = disk.stat().st_size
    for cut in range(len(recorder.epochs)):
        for chance in 0.2, 0.8, None:
            disk.write_bytes(original)
            recorder.replay(disk, cut=cut, chance=chance, size=size)
            if assert_old_or_new(disk, case, before) == case.old_size:
                grow(disk, case)
                assert_old_or_new(disk, case, before)
    length = case.new_size - case.old_size
    qemu_io(disk, [f"write -P 7 {case.old_size} {length}"], discard="ignore")
    assert checked(disk) in (SOUND, LEAKS)
    assert content(disk)[: len(before)] == before


def grown(disk: Path, *, to: int, mapped: bool = False, backing_size: int = 0) -> None:
    fd = os.open(disk, os.O_RDWR)
    try:
        growth.grow(
            fd,
            read_header(fd, path=disk),
            path=disk,
            virtual_size=to,
            mapped=mapped,
            backing_size=backing_size,
            advance=ignored,
        )
    finally:
        os.close(fd)


@settings(max_examples=8)
@example(sizes=[512, 8222208], cluster_size=512, written=0.0)
@example(sizes=[9159680, 60767232], cluster_size=512, written=0.1)
@example(sizes=[18588672, 69954560, 69955072], cluster_size=512, written=0.5)
@example(sizes=[MiB, 70 * MiB], cluster_size=1024, written=1.0)
@given(
    sizes=st.lists(
        st.integers(1, 200 * MiB // 512).map(lambda sectors: sectors * 512),
        min_size=2,
        max_size=4,
        unique=True,
    ).map(sorted),
    cluster_size=st.sampled_from([512, 512, 1024, 2048, 4096, 64 * KiB]),
    written=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_what_is_reserved_for_a_growth_is_enough(
    sizes: list[int], cluster_size: int, written: float, place: Path
) -> None:
    """Found afterwards, by the tables as they are: after each of several growths."""
    disk = place / "reserved.qcow2"
    first, *others = sizes
    disk.unlink(missing_ok=True)
    create(disk, first, f"cluster_size={cluster_size}")
    if length := int(first * written) // 512 * 512:
        qemu_io(disk, [f"write 0 {length}"], discard="ignore")
    for size in others:
        present = full_size(disk)
        os.truncate(disk, present)
        before = header_of(disk).virtual_size
        bound = geometry.grown_size_bound(
            present, virtual_size=before, grown=size, cluster_size=cluster_size
        )
        grown(disk, to=size, mapped=written == 1.0)
        assert full_size(disk) <= bound
        os.truncate(disk, bound)
        assert checked(disk) == SOUND
    length = min(sizes[-1], 8 * MiB)
    qemu_io(disk, [f"write -P 3 {sizes[-1] - length} {length}"], discard="ignore")
    assert disk.stat().st_size == bound
    assert checked(disk) == SOUND


def full_size(disk: Path) -> int:
    """Return what the reservation must cover, never less than the file."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        known = checked_tables(fd, path=disk)
        return refcounts.count(fd, known, path=disk, file_size=size).full_size
    finally:
        os.close(fd)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("inside", [0, 512])
def test_what_tables_have_beyond_the_old_size_stays_unseen(
    tmp_path: Path, mapped: bool, inside: int
) -> None:
    """Stale L2 entries and bytes of the last cluster are zero to the grown guest."""
    disk = create(tmp_path / "disk.qcow2", 2 * MiB)
    write(disk, "write -P 9 0 2M")
    patch(disk, 24, entry(MiB + inside))
    grown(disk, to=3 * MiB, mapped=mapped)
    assert checked(disk) == LEAKS
    assert content(disk) == b"\x09" * (MiB + inside) + bytes(2 * MiB - inside)


def test_compressed_bytes_beyond_the_old_size_are_refused(tmp_path: Path) -> None:
    """They would show, and can't be zeroed in place; zeroes may stay."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    write(disk, "write -c -P 9 0 64k")
    patch(disk, 24, entry(512))
    before = disk.read_bytes()
    with pytest.raises(ImageError, match="shrunk inside compressed data; grow it with"):
        grown(disk, to=2 * MiB)
    assert disk.read_bytes() == before
    disk = create(tmp_path / "other.qcow2", 512)
    write(disk, "write -c -P 9 0 512")
    grown(disk, to=2 * MiB, mapped=True)
    assert checked(disk) == SOUND
    assert content(disk) == b"\x09" * 512 + bytes(2 * MiB - 512)


@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_behind_the_l1_table_is_not_taken_for_it(
    tmp_path: Path, mapped: bool
) -> None:
    """The slack of its last cluster may hold anything."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    slack = header_of(disk).l1_offset + 8
    patch(disk, slack, bytes(range(1, 129)))
    grown(disk, to=8 * GiB, mapped=mapped)
    assert checked(disk) == SOUND
    assert header_of(disk).l1_offset == slack - 8


def test_clusters_in_use_beyond_the_end_of_the_file_are_passed(tmp_path: Path) -> None:
    """QEMU may have counted them, and have been killed before it wrote there."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    write(disk, "write 0 64k")
    end = -(-disk.stat().st_size // CLUSTER)
    block = number(disk, header_of(disk).refcount_table_offset)
    patch(disk, block + 2 * (end + 3), b"\0\1")
    grown(disk, to=2 * MiB, mapped=True)
    assert checked(disk) == LEAKS
    assert number(disk, l2_of(disk) + 16 * 8) & OFFSET == (end + 4) * CLUSTER


def test_free_clusters_inside_the_file_stay_the_guests(tmp_path: Path) -> None:
    """A reserved overlay keeps its reservation: what is new comes behind it."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    reserved = geometry.fully_allocated_size(MiB)
    os.truncate(disk, reserved)
    grown(disk, to=512 * MiB + MiB, mapped=True)
    os.truncate(disk, disk.stat().st_size + CLUSTER)
    present = disk.stat().st_size
    write(disk, "write 0 1M", "write 512M 1M")
    assert disk.stat().st_size == present
    assert checked(disk) == SOUND


def test_metadata_outgrows_its_tables_at_once(tmp_path: Path) -> None:
    """L1 and refcount table move; the old ones' clusters are free afterwards."""
    disk = create(tmp_path / "disk.qcow2", 4 * MiB, "cluster_size=512")
    write(disk, "write -P 5 0 4M")
    before = header_of(disk)
    grown(disk, to=64 * MiB, mapped=True)
    after = header_of(disk)
    assert after.l1_offset > before.l1_offset
    assert after.refcount_table_offset > before.refcount_table_offset
    assert checked(disk) == SOUND
    assert images.fully_mapped(disk)
    assert content(disk) == b"\x05" * (4 * MiB) + bytes(4 * MiB)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Growing by 1 TiB of mapped clusters writes 128 MiB of metadata, and holds few."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    tracemalloc.start()
    try:
        grown(disk, to=TiB, mapped=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MiB
    assert disk.stat().st_size > TiB
    qemu_io(disk, [f"write -P 7 {TiB - MiB} 1M"], discard="ignore")


def bitmap(directory: Path) -> Path:
    disk = create(directory / "bitmap.qcow2", 8 * MiB)
    qemu_img("bitmap", "--add", disk, "changed")
    return disk


def encrypted(directory: Path) -> Path:
    # By hand: on a busy machine QEMU 7.2 is "unable to get accurate CPU usage".
    disk = create(directory / "luks.qcow2", 8 * MiB)
    patch(disk, 32, b"\0\0\0\2")
    return disk


def wide(directory: Path) -> Path:
    return create(directory / "wide.qcow2", 8 * MiB, "refcount_bits=64")


def dirty(directory: Path) -> Path:
    disk = create(directory / "dirty.qcow2", 8 * MiB)
    patch(disk, 72, entry(1))
    return disk


def corrupt(directory: Path) -> Path:
    disk = create(directory / "corrupt.qcow2", 8 * MiB)
    patch(disk, 72, entry(2))
    return disk


@pytest.mark.parametrize(
    ("make_disk", "reason"),
    [
        (snapshot, "1 internal snapshot; grow it with qemu-img resize"),
        (data_file, "external data file; grow it with qemu-img resize"),
        (bitmap, "persistent bitmaps; grow it with qemu-img resize"),
        (encrypted, r"encrypted \(LUKS\); grow it with qemu-img resize"),
        (wide, "refcounts have 64 bits; grow it with qemu-img resize"),
        (dirty, "not closed cleanly; repair it with qemu-img check -r all"),
        (corrupt, "marked it as corrupt; repair it with qemu-img check -r all"),
    ],
)
def test_what_cannot_be_grown_in_place_is_refused(
    tmp_path: Path, make_disk: Callable[[Path], Path], reason: str
) -> None:
    """Untouched, and saying what to do."""
    disk = make_disk(tmp_path)
    before = disk.read_bytes()
    with pytest.raises(ImageError, match=reason):
        grown(disk, to=16 * MiB)
    assert disk.read_bytes() == before


def test_sizes_that_lose_or_show_what_they_must_not_are_refused(tmp_path: Path) -> None:
    """Shrinking; what qcow2 has no image for; a backing file that would show."""
    disk = create(tmp_path / "disk.qcow2", 8 * MiB)
    with pytest.raises(ImageError, match="shrinking it loses data"):
        grown(disk, to=4 * MiB)
    with pytest.raises(InvalidRequest, match="multiple of 512"):
        grown(disk, to=8 * MiB + 1)
    with pytest.raises(ImageError, match="backing file is longer than its 8388608"):
        grown(disk, to=16 * MiB, backing_size=8 * MiB + 512)
    before = disk.read_bytes()
    grown(disk, to=8 * MiB, backing_size=9 * MiB)
    assert disk.read_bytes() == before


def test_mapped_clusters_do_not_hide_a_backing_file(tmp_path: Path) -> None:
    """Without subclusters that is what they would do."""
    base = create(tmp_path / "base.qcow2", MiB)
    disk = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk)
    with pytest.raises(ImageError, match="hide a backing file"):
        grown(disk, to=2 * MiB, mapped=True, backing_size=MiB)
    grown(disk, to=2 * MiB, backing_size=MiB)
    assert checked(disk) == SOUND


def test_an_l2_table_that_is_shared_or_outside_is_refused(tmp_path: Path) -> None:
    """Nothing is written into a table that may not be the image's own."""
    disk = create(tmp_path / "disk.qcow2", MiB)
    write(disk, "write 0 64k")
    l1, l2 = header_of(disk).l1_offset, l2_of(disk)
    for wrong in (l2, TiB | 1 << 63, l2 + 512 | 1 << 63):
        patch(disk, l1, entry(wrong))
        with pytest.raises(ImageError, match="L1 entry 0 is wrong"):
            grown(disk, to=2 * MiB)
