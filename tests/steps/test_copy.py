"""A disk holds its base image: what is shared, what is copied, and what stays a hole.

Base images are drawn as lists of ("data" | "zero" | "hole", length): data are bytes
that are not zero, zero was written (in qcow2: marked as zero), a hole was never
touched.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocpolicy import (
    Allocation,
    Change,
    ContractBroken,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Mode,
    NotEnoughSpace,
    Order,
    Plan,
    Policy,
    Progress,
    Report,
    StrategyFailed,
    apply,
    provision,
)
from allocpolicy.progress import unwatched
from allocpolicy.qcow2 import writer
from allocpolicy.qcow2.geometry import geometry
from allocpolicy.storage import copy, extent, reflink, sparse
from allocpolicy.storage.copy import Run
from allocpolicy.storage.extent import ExtentFlag
from allocpolicy.testing import BaseKind, make_base, opened, run_plan
from tests.conftest import FreshFilesystem
from tests.harness import images
from tests.harness.filesystems import assert_clean, leave_free
from tests.harness.images import MIB
from tests.harness.qcow2_disks import (
    CLUSTER,
    TiB,
    compressed,
    mapped_clusters,
    subclusters,
)

Picture = Sequence[tuple[str, int]]

KIB = 1 << 10
BLOCK = 4096  # of every filesystem here
XFS_HINT = MIB
REFLINK = frozenset({"xfs", "btrfs"})
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
TAILED: Picture = (
    ("data", MIB),
    ("hole", 2 * MIB),
    ("zero", MIB),
    ("data", 512),
    ("hole", 3 * MIB - 512),
    ("data", MIB + 512),
)
pictures = st.lists(
    st.tuples(
        st.sampled_from(["data", "zero", "hole"]),
        st.sampled_from([512, 1536, 4096, 64 * KIB, 64 * KIB + 512, MIB, MIB + 512])
        | st.integers(1, 1024).map(lambda sectors: sectors * 512),
    ),
    min_size=1,
    max_size=6,
)
drawn = settings(
    max_examples=5,
)


def size_of(picture: Picture) -> int:
    return sum(length for _, length in picture)


def runs_of(picture: Picture, *kinds: str) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what is of these kinds."""
    offset = 0
    for kind, length in picture:
        if kind in kinds:
            yield offset, length
        offset += length


def draw_raw(picture: Picture, base: Path) -> Path:
    """Draw a raw image; an existing empty file keeps its inode flags."""
    with base.open("ab") as file:
        os.ftruncate(file.fileno(), size_of(picture))
    with base.open("r+b") as file:
        for number, (offset, length) in enumerate(runs_of(picture, "data")):
            os.pwrite(file.fileno(), bytes((number + 1,)) * length, offset)
        for offset, length in runs_of(picture, "zero"):
            os.pwrite(file.fileno(), bytes(length), offset)
    return base


def draw_qcow2(picture: Picture, base: Path, *options: str) -> Path:
    """Draw a qcow2 image with QEMU."""
    joined = ["-o", ",".join(options)] if options else []
    size = size_of(picture)
    images.qemu_img("create", "-q", "-f", "qcow2", *joined, base, size)
    commands = [
        f"write -P {number + 1} {offset} {length}"
        for number, (offset, length) in enumerate(runs_of(picture, "data"))
    ]
    commands += [f"write -z {o} {length}" for o, length in runs_of(picture, "zero")]
    subprocess.run(
        ["qemu-io", "-f", "qcow2", base],
        input="\n".join(commands),
        capture_output=True,
        check=True,
        text=True,
    )
    return base


@contextmanager
def place_in(directory: Path) -> Iterator[Path]:
    """Give a directory that is gone with all in it at the end."""
    place = Path(tempfile.mkdtemp(dir=directory))
    try:
        yield place
    finally:
        shutil.rmtree(place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A disk to be made of a base image."""

    strategy: str
    format: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """What becomes of storage that the base has no data for."""
        if self.strategy == "space":
            return "falloc"
        return self.options.get("data", "sparse")

    def make(
        self,
        disk: Path,
        base: Path,
        *,
        size: int | None = None,
        watch: Callable[[str], Progress] = unwatched,
    ) -> Report:
        """Provision the disk."""
        name = self.strategy
        specs = {f"allocpolicy:{name}.{key}": one for key, one in self.options.items()}
        order = Order(
            destination=disk,
            base=base,
            base_format=base.suffix[1:],
            virtual_size=size,
            format=DiskFormat(self.format),
            extra_specs={"allocpolicy:strategy": name, **specs},
        )
        # Any size, as direct I/O does not open all of them.
        policy = Policy(size_alignment=512)
        return provision(order, policy=policy, watch=watch)


def performance(data: str, format: str, **options: str) -> Kind:
    return Kind(
        strategy="performance", format=format, options={"data": data, **options}
    )


SPARSE_QCOW2 = performance("sparse", "qcow2")
NONE_RAW = Kind(strategy="none", format="raw")
KINDS = [
    *(performance("sparse", format) for format in ("qcow2", "raw")),
    *(performance("falloc", format) for format in ("qcow2", "raw")),
    *(performance("full", format) for format in ("qcow2", "raw")),
    performance("sparse", "qcow2", cluster_size="2M"),
    NONE_RAW,
    Kind(strategy="space", format="raw"),
]
SOME = [KINDS[0], KINDS[3], KINDS[5], KINDS[7]]
SPARSE = [kind for kind in KINDS if kind.data == "sparse"]


def data_offset(disk: Path, kind: Kind) -> int:
    """Return where in the file the guest's first byte is."""
    if kind.format == "raw":
        return 0
    document = images.info(disk, format="qcow2")
    whole = geometry(document["virtual-size"], cluster_size=document["cluster-size"])
    return whole.data_offset


def extents_of(disk: Path) -> list[tuple[int, int, ExtentFlag]]:
    with disk.open("rb") as file:
        return [
            (one.offset, one.offset + one.length, one.flags)
            for one in extent.extents(file.fileno())
        ]


def bytes_with(disk: Path, flag: ExtentFlag) -> int:
    return sum(end - start for start, end, flags in extents_of(disk) if flags & flag)


def blocks(runs: Iterator[tuple[int, int]], *, unit: int) -> set[int]:
    """Return the numbers of the blocks that the runs touch."""
    touched: set[int] = set()
    for offset, length in runs:
        touched |= set(range(offset // unit, (offset + length - 1) // unit + 1))
    return touched


def assert_equal(disk: Path, kind: Kind, base: Path) -> None:
    formats = kind.format, base.suffix[1:]
    assert images.same_content(disk, base, formats=formats)
    if kind.format == "qcow2":
        result = images.check(disk)
        assert "leaks" not in result
        assert "corruptions" not in result


def assert_holes_are_holes(
    disk: Path, kind: Kind, picture: Picture, *, unit: int
) -> None:
    """Behind the metadata storage is taken for what was written, in whole units."""
    start = data_offset(disk, kind)
    stored = sum(max(0, end - max(first, start)) for first, end, _ in extents_of(disk))
    written = len(blocks(runs_of(picture, "data", "zero"), unit=unit))
    # The file's blocks don't begin where the guest's do; of the metadata's last unit
    # the rest is stored, too.
    runs = len(list(runs_of(picture, "data", "zero")))
    assert stored <= (written + 2 * runs + 1) * unit


def assert_allocated(
    report: Report,
    kind: Kind,
    picture: Picture,
    *,
    filesystem: str,
    cluster_size: int = BLOCK,
) -> None:
    """Reserved and written mean the disk's own; sparse takes what the data takes."""
    observed = report.observed
    assert observed is not None and observed.extents is not None
    if kind.data == "sparse":
        unit = max(BLOCK, cluster_size, XFS_HINT if filesystem == "xfs" else 0)
        assert_holes_are_holes(report.disk, kind, picture, unit=unit)
        if filesystem not in REFLINK:
            assert observed.extents.shared == 0
        return
    assert observed.extents.shared == 0
    assert observed.extents.hole == 0
    if kind.data == "full":
        assert observed.allocation is Allocation.WRITTEN
        assert observed.extents.unwritten == 0
    else:
        assert observed.allocation in {Allocation.RESERVED, Allocation.WRITTEN}


few_kinds = st.lists(st.sampled_from(KINDS), min_size=3, max_size=3, unique_by=id)


@ALL
@drawn
@given(
    picture=pictures,
    more=st.sampled_from([0, 512, 4096, 3 * MIB + 512]),
    kinds=few_kinds,
)
@example(picture=TAILED, more=0, kinds=KINDS)
@example(picture=[("data", MIB + 512)], more=512, kinds=KINDS)
@example(picture=[("hole", MIB + 512)], more=0, kinds=SPARSE)
@example(picture=[("data", 512)], more=0, kinds=SPARSE)
@example(
    picture=[("hole", 64 * KIB), ("data", 512), ("zero", 5 * MIB)],
    more=MIB,
    kinds=SPARSE,
)
def test_a_raw_base_is_in_every_disk(
    directory: Path,
    filesystem_kind: str,
    picture: Picture,
    more: int,
    kinds: Sequence[Kind],
) -> None:
    """Equal to the byte, whatever the tail; holes stay holes where data is sparse."""
    with place_in(directory) as place:
        base = draw_raw(picture, place / "base.raw")
        for number, kind in enumerate(kinds):
            disk = place / f"disk-{number}"
            report = kind.make(disk, base, size=size_of(picture) + more)
            assert_equal(disk, kind, base)
            assert_allocated(report, kind, picture, filesystem=filesystem_kind)


@ALL
@drawn
@given(
    picture=pictures,
    cluster_size=st.sampled_from([512, 4 * KIB, 64 * KIB, 2 * MIB]),
    metadata=st.booleans(),
    version=st.sampled_from(["0.10", "1.1"]),
    kinds=few_kinds,
)
@example(picture=TAILED, cluster_size=512, metadata=False, version="1.1", kinds=KINDS)
@example(picture=TAILED, cluster_size=4096, metadata=True, version="1.1", kinds=SPARSE)
@example(
    picture=TAILED, cluster_size=65536, metadata=False, version="0.10", kinds=SPARSE
)
@example(picture=TAILED, cluster_size=65536, metadata=True, version="1.1", kinds=KINDS)
@example(
    picture=TAILED, cluster_size=2 * MIB, metadata=False, version="1.1", kinds=SPARSE
)
def test_a_qcow2_base_is_in_every_disk(
    directory: Path,
    filesystem_kind: str,
    picture: Picture,
    cluster_size: int,
    metadata: bool,
    version: str,
    kinds: Sequence[Kind],
) -> None:
    """Through its tables: zero clusters and preallocated ones take no storage."""
    options = [f"cluster_size={cluster_size}", f"compat={version}"]
    options += ["preallocation=metadata"] if metadata else []
    with place_in(directory) as place:
        base = draw_qcow2(picture, place / "base.qcow2", *options)
        for number, kind in enumerate(kinds):
            disk = place / f"disk-{number}"
            report = kind.make(disk, base, size=size_of(picture) + 512)
            assert_equal(disk, kind, base)
            if metadata and cluster_size < BLOCK:
                continue  # a block of the file holds tables and preallocated clusters
            assert_allocated(
                report,
                kind,
                picture,
                filesystem=filesystem_kind,
                cluster_size=cluster_size,
            )


@pytest.mark.filesystems("xfs", "btrfs")
@pytest.mark.parametrize("kind", [SPARSE_QCOW2, NONE_RAW])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
class TestSharing:
    """Where base image and disk share a reflink filesystem, data is not copied."""

    def test_all_whole_blocks_are_shared(
        self, directory: Path, kind: Kind, format: str
    ) -> None:
        """Storage is taken for metadata and the tail that is less than a block."""
        base = self.draw(directory, format)
        disk = directory / "disk"
        report = kind.make(disk, base)
        assert report.observed is not None and report.observed.extents is not None
        data = sum(length for _, length in runs_of(TAILED, "data"))
        assert report.observed.extents.shared >= data // BLOCK * BLOCK - 4 * BLOCK
        own = [
            (start, end)
            for start, end, flags in extents_of(disk)
            if not flags & (ExtentFlag.SHARED | ExtentFlag.UNWRITTEN)
        ]
        metadata = data_offset(disk, kind)
        assert sum(end - start for start, end in own) <= metadata + 4 * BLOCK
        assert_equal(disk, kind, base)

    def test_writing_to_the_disk_leaves_the_base_as_it_was(
        self, directory: Path, kind: Kind, format: str
    ) -> None:
        """And the other way round: they share blocks, not fate."""
        base = self.draw(directory, format)
        disk, twin = directory / "disk", directory / f"twin.{format}"
        kind.make(disk, base)
        shutil.copyfile(base, twin)
        size = size_of(TAILED)
        self.write(disk, kind.format, f"write -P 0xee 0 {size}")
        assert images.same_content(base, twin, formats=(format, format))
        copy_of_disk = directory / f"copy.{kind.format}"
        shutil.copyfile(disk, copy_of_disk)
        self.write(base, format, f"write -P 0xdd 0 {size}")
        assert images.same_content(
            disk, copy_of_disk, formats=(kind.format, kind.format)
        )

    def draw(self, directory: Path, format: str) -> Path:
        draw = draw_raw if format == "raw" else draw_qcow2
        return draw(TAILED, directory / f"base.{format}")

    def write(self, image: Path, format: str, command: str) -> None:
        arguments = ["qemu-io", "-f", format, "-c", command, str(image)]
        subprocess.run(arguments, check=True, capture_output=True)


class TestWithoutSharing:
    """What can't be shared is copied; only the report's numbers tell."""

    @pytest.mark.filesystems("btrfs")
    @pytest.mark.parametrize("kind", SOME)
    def test_a_nocow_base_on_btrfs(self, directory: Path, kind: Kind) -> None:
        """FICLONERANGE from NOCOW to COW is EINVAL."""
        base = directory / "base.raw"
        base.touch()
        subprocess.run(["chattr", "+C", base], check=True)
        draw_raw(TAILED, base)
        assert not self.shared(kind, directory / "disk", base)

    @pytest.mark.filesystems("btrfs")
    @pytest.mark.parametrize("kind", SOME)
    def test_a_nocow_directory_on_btrfs(self, directory: Path, kind: Kind) -> None:
        """The disk inherits NOCOW from it, and the base has none."""
        base = draw_raw(TAILED, directory / "base.raw")
        (directory / "nocow").mkdir()
        subprocess.run(["chattr", "+C", directory / "nocow"], check=True)
        assert not self.shared(kind, directory / "nocow" / "disk", base)

    @pytest.mark.filesystems("btrfs")
    @pytest.mark.parametrize("kind", SOME)
    def test_both_nocow_on_btrfs(self, directory: Path, kind: Kind) -> None:
        """NOCOW to NOCOW can be shared, and is not where data is the disk's own."""
        subprocess.run(["chattr", "+C", directory], check=True)
        base = draw_raw(TAILED, directory / "base.raw")
        assert self.shared(kind, directory / "disk", base) is (kind.data == "sparse")

    @ALL
    @pytest.mark.parametrize("source", ["tmpfs", "btrfs", "xfs"])
    def test_a_base_on_another_filesystem(
        self,
        directory: Path,
        filesystem_kind: str,
        source: str,
        mount_point: Callable[[str], Path],
    ) -> None:
        """FICLONERANGE across filesystems is EXDEV."""
        if source == filesystem_kind:
            source = "ext4"
        with place_in(mount_point(source)) as place:
            raw = draw_raw(TAILED, place / "base.raw")
            qcow2 = draw_qcow2(TAILED, place / "base.qcow2")
            for number, (kind, base) in enumerate(
                zip(SOME, (raw, qcow2) * 2, strict=True)
            ):
                assert not self.shared(kind, directory / f"disk-{number}", base)

    @pytest.mark.filesystems("xfs")
    def test_a_base_on_another_filesystem_of_the_same_kind(
        self, directory: Path, fresh_filesystem: FreshFilesystem
    ) -> None:
        """The kernel tells them apart by the superblock."""
        base = draw_raw(TAILED, fresh_filesystem("xfs") / "base.raw")
        assert not self.shared(SPARSE_QCOW2, directory / "disk", base)

    @pytest.mark.filesystems("btrfs")
    @pytest.mark.parametrize("kind", SOME)
    def test_a_base_that_btrfs_compressed(self, directory: Path, kind: Kind) -> None:
        """Encoded extents are shared as they are, or read and written."""
        base = directory / "base.raw"
        base.touch()
        subprocess.run(["chattr", "+c", base], check=True)
        draw_raw(TAILED, base)
        assert bytes_with(base, ExtentFlag.ENCODED)
        assert self.shared(kind, directory / "disk", base) is (kind.data == "sparse")

    def shared(self, kind: Kind, disk: Path, base: Path) -> int:
        """Return the disk's shared bytes; its content must be the base's."""
        report = kind.make(disk, base)
        assert_equal(disk, kind, base)
        assert report.observed is not None and report.observed.extents is not None
        return bool(report.observed.extents.shared)


class TestReserved:
    """Unwritten extents of a base image are holes to a guest, and cost no storage."""

    @pytest.mark.filesystems("ext4")
    @pytest.mark.parametrize("kind", [SPARSE_QCOW2, NONE_RAW])
    @pytest.mark.parametrize("format", ["raw", "qcow2"])
    @pytest.mark.parametrize("read_before", [False, True])
    def test_they_are_not_copied(
        self, directory: Path, kind: Kind, format: str, read_before: bool
    ) -> None:
        """Nor are they when they are in the page cache, by reading or reading ahead.

        For lseek(2) an unwritten extent with pages in the cache is data (see
        mapping_seek_hole_data() in mm/filemap.c): copying a little of it makes more.
        """
        base = directory / f"base.{format}"
        images.qemu_img(
            *("create", "-q", "-f", format, "-o", "preallocation=falloc"),
            *(base, 64 * MIB),
        )
        arguments = ["qemu-io", "-f", format, "-c", "write -P 1 0 1M", str(base)]
        subprocess.run(arguments, check=True, capture_output=True)
        os.sync()
        if read_before:
            base.read_bytes()
        report = kind.make(directory / "disk", base)
        assert_equal(report.disk, kind, base)
        assert report.observed is not None
        assert report.observed.actual_size < 4 * MIB


class TestWrittenZeroes:
    """Zeroes that a base stores take no storage in its copies."""

    ZEROED: Picture = (
        ("data", MIB),
        ("zero", 24 * MIB + 512),
        ("data", 512),
        ("zero", 8 * MIB - 1024),
        ("data", MIB),
    )

    @pytest.mark.filesystems("ext4", "ext2", "tmpfs")
    @pytest.mark.parametrize("kind", [SPARSE_QCOW2, NONE_RAW])
    @pytest.mark.parametrize("in_qcow2", [False, True])
    def test_a_thin_copy_leaves_them_out(
        self, directory: Path, kind: Kind, in_qcow2: bool
    ) -> None:
        """As a converted image does, whether they stand in raw or in a cluster."""
        base = draw_raw(self.ZEROED, directory / "base.raw")
        if in_qcow2:
            raw, base = base, directory / "base.qcow2"
            images.qemu_img(*("convert", "-S", "0", "-O", "qcow2", raw, base))
        report = kind.make(directory / "disk", base)
        assert_equal(report.disk, kind, base)
        assert report.observed is not None
        assert report.observed.actual_size < 4 * MIB

    @pytest.mark.filesystems("ext4")
    @pytest.mark.parametrize("data", ["falloc", "full"])
    def test_a_disk_with_storage_of_its_own_has_it(
        self, directory: Path, data: str
    ) -> None:
        """What is left out of the copy was reserved before, or is filled after."""
        base = draw_raw(self.ZEROED, directory / "base.raw")
        kind = performance(data, "raw")
        report = kind.make(directory / "disk", base)
        assert_equal(report.disk, kind, base)
        assert_allocated(report, kind, self.ZEROED, filesystem="ext4")

    @pytest.mark.filesystems("ext4")
    def test_over_a_backing_file_they_are_data(self, directory: Path) -> None:
        """A rewrite that flattens a chain must not let the backing file show."""
        below = directory / "below.qcow2"
        draw_qcow2([("data", 4 * MIB)], below)
        raw = directory / "raw"
        draw_raw([("data", MIB), ("zero", 2 * MIB), ("data", MIB)], raw)
        disk = directory / "disk.qcow2"
        images.qemu_img("create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", disk)
        zeroes = directory / "zeroes"
        zeroes.write_bytes(bytes(2 * MIB))
        subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", f"write -s {zeroes} {MIB} 2M", disk],
            check=True,
            capture_output=True,
        )
        expected = directory / "expected"
        images.qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, expected)
        change = Change(
            disk=disk,
            format=DiskFormat.QCOW2,
            extra_specs={"allocpolicy:strategy": "performance"},
        )
        apply(change, policy=Policy())
        assert images.same_content(disk, expected, formats=("qcow2", "raw"))

    @given(
        st.lists(st.sampled_from(["data", "zero"]), min_size=1, max_size=5), st.data()
    )
    def test_the_parts_that_are_not_zeroes(
        self, kinds: list[str], data: st.DataObject
    ) -> None:
        """Every byte that is not zero is in a part; a zero granule is in none."""
        lengths = [data.draw(st.integers(1, 3 * sparse.GRANULE)) for _ in kinds]
        content = b"".join(
            (b"x" if kind == "data" else b"\0") * length
            for kind, length in zip(kinds, lengths, strict=True)
        )
        rest = bytearray(content)
        for offset, length in sparse.nonzero(memoryview(content)):
            assert offset % sparse.GRANULE == 0
            part = content[offset : offset + length]
            for start in range(0, length, sparse.GRANULE):
                assert any(part[start : start + sparse.GRANULE])
            rest[offset : offset + length] = bytes(length)
        assert not any(rest)


class TestForeign:
    """What does not stand in the file as the guest reads it goes through qemu-img."""

    @ALL
    @pytest.mark.parametrize("make", [compressed, subclusters])
    @pytest.mark.parametrize("format", ["qcow2", "raw"])
    @pytest.mark.parametrize("data", ["sparse", "falloc", "full"])
    def test_it_is_in_every_disk(
        self,
        directory: Path,
        data: str,
        format: str,
        make: Callable[[Path], Path],
    ) -> None:
        """Equal to the byte, and the storage is the disk's own."""
        base = make(directory)
        kind = performance(data, format)
        report = kind.make(directory / "disk", base)
        assert_equal(report.disk, kind, base)
        observed = report.observed
        assert observed is not None and observed.extents is not None
        assert observed.extents.shared == 0
        if data != "sparse":
            assert observed.extents.hole == 0

    @pytest.mark.filesystems("xfs")
    @pytest.mark.parametrize("kind", [SPARSE_QCOW2, NONE_RAW])
    def test_its_copy_is_admitted_only_where_it_fits(
        self, fresh_filesystem: FreshFilesystem, tmp_path: Path, kind: Kind
    ) -> None:
        """Nothing of it can be shared: the plan counts all of it, before any work."""
        place = fresh_filesystem("xfs", size=400 * MIB)
        base = compressed_data(tmp_path, place, size=64 * MIB)
        leave_free(place, 32 * MIB)
        watched = Watched()
        with pytest.raises(NotEnoughSpace):
            kind.make(place / "disk", base, watch=watched)
        assert watched.descriptions == []
        assert not (place / "disk").exists()


def compressed_data(scratch: Path, place: Path, *, size: int) -> Path:
    """Return a compressed qcow2 of data that takes little there."""
    source = draw_raw([("data", size)], scratch / "source.raw")
    base = place / "base.qcow2"
    images.qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", source, base)
    return base


class Watched:
    """Records what steps say of themselves; may cancel one of them."""

    def __init__(self, *, cancel: str = "", error: type[BaseException] | None = None):
        self.descriptions: list[str] = []
        self.told: dict[str, list[tuple[int, int]]] = {}
        self.cancel, self.error = cancel, error

    def __call__(self, description: str, /) -> Progress:
        """Begin to record a step."""
        self.descriptions.append(description)
        told = self.told.setdefault(description, [])

        def progress(*, done: int, total: int) -> None:
            told.append((done, total))
            if self.error and description.startswith(self.cancel):
                raise self.error("the test has had enough")

        return progress


def assert_grows(told: Sequence[tuple[int, int]]) -> None:
    """What is done never becomes less, and the total stays."""
    assert list(told) == sorted(told)
    assert len({total for _, total in told}) == 1


class TestProgress:
    """Whoever watches knows how far it is, and can stop it."""

    @ALL
    @pytest.mark.parametrize("base", ["raw", "qcow2", "metadata"])
    def test_copying_adds_up_to_the_total(self, directory: Path, base: str) -> None:
        """It says so at last, also where much of the base's data is holes."""
        for number, kind in enumerate(KINDS):
            watched = self.watch(directory, f"disk-{number}", kind, base)
            (told,) = (
                told for name, told in watched.told.items() if f"{base}-base" in name
            )
            assert told[-1][0] == told[-1][1], kind
            assert_grows(told)

    @ALL
    @pytest.mark.parametrize("step", ["create a qcow2", "write zeroes"])
    def test_metadata_and_zeroes_add_up_to_the_total(
        self, directory: Path, step: str
    ) -> None:
        """What was data before is done as well as what was a hole."""
        for number, kind in enumerate(KINDS):
            watched = self.watch(directory, f"disk-{number}", kind, "raw")
            for name, told in watched.told.items():
                if name.startswith(step):
                    assert told[-1][0] == told[-1][1], kind
                    assert_grows(told)

    def watch(self, directory: Path, disk: str, kind: Kind, base: str) -> Watched:
        """Return what was told while the disk was made; ``base`` is in its name."""
        if base == "raw":
            image = draw_raw(TAILED, directory / "raw-base.raw")
        else:
            off = "off" if base == "qcow2" else base
            image = directory / f"{base}-base.qcow2"
            draw_qcow2(TAILED, image, f"preallocation={off}")
        watched = Watched()
        kind.make(directory / disk, image, watch=watched)
        return watched

    @ALL
    @pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
    @pytest.mark.parametrize(
        "step", ["create a qcow2", "copy", "share", "write zeroes"]
    )
    def test_an_exception_cancels_and_leaves_nothing(
        self, directory: Path, step: str, error: type[BaseException]
    ) -> None:
        """Ctrl-C comes through as it is; errors name the step's strategy besides."""
        (directory / "base").mkdir()
        base = draw_raw(TAILED, directory / "base" / "base.raw")
        disks = directory / "disks"
        disks.mkdir()
        for kind in KINDS:
            watched = Watched(cancel=step, error=error)
            raised: BaseException | None = None
            try:
                kind.make(disks / "disk", base, watch=watched)
            except (StrategyFailed, error) as caught:
                raised = caught
            if any(
                told for name, told in watched.told.items() if name.startswith(step)
            ):
                assert isinstance(raised, error) or isinstance(
                    raised and raised.__cause__, error
                )
                assert_clean(disks)
            else:
                assert raised is None
                (disks / "disk").unlink()

    @ALL
    def test_long_copies_go_by_chunks(self, directory: Path) -> None:
        """So that there is something to see, and to interrupt."""
        base = draw_raw([("data", 40 * MIB)], directory / "base.raw")
        watched = Watched()
        performance("falloc", "raw").make(directory / "disk", base, watch=watched)
        (told,) = (told for name, told in watched.told.items() if "copy" in name)
        sizes = list(dict.fromkeys(done for done, _ in told))
        # The extents that ext4 gave the base may be smaller than a chunk.
        assert all(below < above for below, above in pairwise((0, *sizes)))
        assert all(above - below <= 4 * MIB for below, above in pairwise((0, *sizes)))
        assert sizes[-1] == 40 * MIB


@pytest.mark.filesystems("xfs")
class TestExtentSizeHint:
    """XFS takes the hint only before the first extent; it is on every disk."""

    @pytest.mark.parametrize(
        "kind",
        [
            *KINDS,
            Kind(strategy="none", format="qcow2"),
            Kind(strategy="space", format="qcow2"),
            performance("sparse", "qcow2", layout="backed"),
        ],
    )
    def test_every_disk_has_it(self, directory: Path, kind: Kind) -> None:
        """1 MiB, as qemu-img sets it; a cluster where a qcow2 grows by clusters."""
        base = draw_raw(TAILED, directory / "base.raw")
        disk = directory / "disk"
        kind.make(disk, base)
        done = subprocess.run(
            ["xfs_io", "-r", "-c", "extsize", disk],
            capture_output=True,
            check=True,
            text=True,
        )
        grows = kind.format == "qcow2" and kind.strategy != "performance"
        assert done.stdout.startswith(f"[{CLUSTER if grows else XFS_HINT}] ")

    def test_scattered_writes_leave_few_extents(self, directory: Path) -> None:
        """That is what it is for: writes here and there leave pieces of 1 MiB."""
        disk = directory / "disk"
        base = draw_raw([("hole", 64 * MIB)], directory / "base.raw")
        performance("sparse", "raw").make(disk, base)
        with disk.open("r+b") as file:
            for number in range(0, 64 * MIB, 16 * KIB):
                os.pwrite(file.fileno(), b"x", number * 5 % (64 * MIB))
                os.fdatasync(file.fileno()) if number % MIB == 0 else None
        physical = subprocess.run(
            ["filefrag", disk], capture_output=True, check=True, text=True
        ).stdout
        assert int(physical.rpartition(": ")[2].split()[0]) <= 128


@pytest.mark.filesystems("xfs")
def test_64_tib_are_mapped(directory: Path) -> None:
    """xfs holds files of that size (ext4: 16 TiB); the tables are 320 MiB."""
    whole = geometry(64 * TiB, cluster_size=2 * MIB)
    disk = directory / "disk.qcow2"
    with disk.open("w+b") as file:
        writer.write_mapped(file.fileno(), whole, advance=lambda count: None)
    assert disk.stat().st_size == whole.file_size
    assert mapped_clusters(disk) == whole.data_clusters
    assert images.check(disk)["allocated-clusters"] == whole.data_clusters


class TestMechanism:
    """copy and share, by themselves."""

    @pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
    @pytest.mark.parametrize("may_share", [False, True])
    def test_holes_of_the_source_are_passed_over(
        self, directory: Path, may_share: bool
    ) -> None:
        """The target keeps what it has there; data lands at an offset of its own."""
        base = draw_raw(TAILED, directory / "base.raw")
        size = size_of(TAILED)
        told: list[int] = []
        with base.open("rb") as source, (directory / "target").open("w+b") as target:
            target.write(b"\xff" * (size + 1024))
            target.flush()
            copy.copy_runs(
                source.fileno(),
                target.fileno(),
                runs=[Run(source=0, target=1024, length=size)],
                may_share=may_share,
                advance=told.append,
            )
            target.seek(0)
            found = target.read()
        expected = bytearray(b"\xff" * (size + 1024))
        content = base.read_bytes()
        for offset, length in runs_of(TAILED, "data", "zero"):
            # The kernel knows of whole blocks.
            first = offset // BLOCK * BLOCK
            last = min(-(-(offset + length) // BLOCK) * BLOCK, size)
            expected[1024 + first : 1024 + last] = content[first:last]
        assert found == expected
        assert 0 < sum(told) <= size

    @pytest.mark.filesystems("xfs", "btrfs")
    @pytest.mark.parametrize("start", [0, 512, 4096])
    @pytest.mark.parametrize("target_start", [0, 512, 8192])
    def test_runs_of_any_alignment_are_shared_or_copied(
        self, directory: Path, start: int, target_start: int
    ) -> None:
        """Blocks are shared where both sides are aligned; bytes are equal anyhow."""
        for length in (1, 4095, 4096, 5000, MIB, MIB + 513):
            self.assert_taken_over(directory, start, target_start, length)

    def assert_taken_over(
        self, directory: Path, start: int, target_start: int, length: int
    ) -> None:
        base = draw_raw([("data", 2 * MIB)], directory / "base.raw")
        told: list[int] = []
        with base.open("rb") as source, (directory / "target").open("w+b") as target:
            os.ftruncate(target.fileno(), 4 * MIB)
            reflink.share_runs(
                source.fileno(),
                target.fileno(),
                runs=[Run(source=start, target=target_start, length=length)],
                block_size=4096,
                advance=told.append,
            )
        found = (directory / "target").read_bytes()
        assert found == bytes(target_start) + b"\1" * length + bytes(
            4 * MIB - target_start - length
        )
        assert sum(told) == length
        aligned = start % BLOCK == target_start % BLOCK == 0
        shared = bytes_with(directory / "target", ExtentFlag.SHARED)
        assert shared == (length // BLOCK * BLOCK if aligned else 0)

    @ALL
    def test_whether_blocks_can_be_shared_is_found_by_trying(
        self, directory: Path, filesystem_kind: str
    ) -> None:
        """A base of less than a block counts as well."""
        for length in (1, 512, 4096, 5000):
            base = directory / f"base-{length}"
            base.write_bytes(b"x" * length)
            with base.open("rb") as source, (directory / "new").open("w+b") as target:
                found = reflink.can_share(source.fileno(), target.fileno())
            assert found is (filesystem_kind in REFLINK)

    @ALL
    def test_a_source_that_becomes_shorter_is_an_error(self, directory: Path) -> None:
        """Never zeroes in the place of data that is gone."""
        base = draw_raw([("data", MIB)], directory / "base.raw")
        with base.open("r+b") as source, (directory / "target").open("w+b") as target:
            run = Run(source=0, target=0, length=2 * MIB)
            with pytest.raises(OSError, match="shorter") as caught:
                copy._read_and_write(
                    source.fileno(),
                    target.fileno(),
                    pieces=[run],
                    advance=lambda count: None,
                )
        assert caught.value.errno == errno.EIO


@pytest.mark.filesystems("xfs", "btrfs")
@pytest.mark.parametrize("strategy", ["none", "performance"])
@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_full_filesystem_is_not_enough_space(
    filesystem_kind: str,
    fresh_filesystem: FreshFilesystem,
    strategy: str,
    format: str,
) -> None:
    """Also where the trying of reflinks is what meets ENOSPC."""
    place = fresh_filesystem(filesystem_kind, size=400 * MIB)
    base = draw_raw(TAILED, place / "base.raw")
    fill(place)
    with pytest.raises(NotEnoughSpace):
        Kind(strategy=strategy, format=format).make(place / "disk", base, size=64 * MIB)
    assert sorted(os.listdir(place)) == ["ballast", "base.raw"]


def fill(place: Path) -> None:
    """Take all space, the last block too."""
    leave_free(place, 0)
    with (place / "ballast").open("ab", buffering=0) as file:
        for size in (MIB, BLOCK, 512):
            try:
                while True:
                    file.write(b"x" * size)
                    os.fsync(file.fileno())
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@pytest.mark.parametrize(
    ("create", "copied", "told"),
    [
        (
            CreateQcow2(virtual_size=1 << 30, mapped=True),
            {"format": DiskFormat.QCOW2, "data_offset": 5 * CLUSTER},
            "it copies to byte 327680 of the file, and the disk's data begins at",
        ),
        (
            CreateQcow2(virtual_size=MIB),
            {"format": DiskFormat.QCOW2, "data_offset": 5 * CLUSTER},
            "and the disk's data has no place there yet",
        ),
        (
            CreateQcow2(virtual_size=MIB, mapped=True),
            {"format": DiskFormat.RAW},
            "it copies into a raw disk, which is qcow2",
        ),
        (
            CreateRaw(virtual_size=MIB),
            {"format": DiskFormat.QCOW2},
            "it copies into a qcow2 disk, which is raw",
        ),
    ],
    ids=["the base's own offset", "unmapped", "qcow2 as raw", "raw as qcow2"],
)
def test_a_copy_that_would_miss_the_disk_is_refused(
    create: CreateQcow2 | CreateRaw,
    copied: Mapping[str, Any],
    told: str,
    tmp_path: Path,
) -> None:
    """The disk would be whole, and its guest would read something else."""
    base = make_base(tmp_path, BaseKind.RAW)
    with opened(base) as image:
        plan = Plan(
            mode=Mode.STAGED,
            steps=(create, CopyBase(base=image, **copied)),
            peak_bytes=create.full_size,
            promised_bytes=create.full_size,
        )
        with pytest.raises(ContractBroken, match=told):
            run_plan(plan, tmp_path / "disk")
