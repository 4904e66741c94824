"""Zeroes that are written: nothing is left unwritten, and nothing else is lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allocpolicy import FillHoles, Reserve
from allocpolicy.progress import unwatched
from allocpolicy.storage import extent, fallocate, inode_flags, staging, zeroes
from allocpolicy.storage.extent import ExtentFlag
from allocpolicy.storage.inode_flags import InodeFlag
from allocpolicy.storage.staging import Staged
from tests.harness.directory import open_directory
from tests.harness.images import MIB

EVERYWHERE = pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs", "ext2")
SIZE = 6 * MIB
BLOCK = 4096
drawn = settings(
    max_examples=4,
)
offsets = st.one_of(
    st.integers(0, SIZE), st.integers(0, SIZE // BLOCK).map(lambda n: n * BLOCK)
)


@pytest.fixture
def staged(directory: Path) -> Iterator[Staged]:
    with staging.create(open_directory(directory)) as made:
        yield made


def not_written(fd: int, *, offset: int, length: int) -> int:
    """Return the bytes of a range that are holes or unwritten extents."""
    end = offset + length
    written = 0
    for one in extent.extents(fd):
        if not one.flags & (ExtentFlag.UNWRITTEN | ExtentFlag.DELALLOC):
            first, last = max(one.offset, offset), min(one.offset + one.length, end)
            written += max(0, last - first)
    return length - written


@EVERYWHERE
@pytest.mark.parametrize("before", ["hole", "data", "reserved"])
@drawn
@given(first=offsets, second=offsets)
@example(first=0, second=SIZE)
@example(first=1, second=SIZE - 1)
@example(first=4095, second=4097)
@example(first=5, second=6)
@example(first=BLOCK, second=BLOCK)
@example(first=MIB + 512, second=5 * MIB + 513)
def test_a_range_is_written_and_what_is_around_it_stays(
    directory: Path, filesystem_kind: str, before: str, first: int, second: int
) -> None:
    """Whatever its alignment to blocks, and to what O_DIRECT wants."""
    if before == "reserved" and filesystem_kind == "ext2":
        return
    offset, end = sorted((first, second))
    told: list[int] = []
    with tempfile.TemporaryFile(dir=directory) as file:
        fd = file.fileno()
        content = bytes(SIZE)
        if before == "data":
            content = b"\xa5" * SIZE
            os.pwrite(fd, content, 0)
        elif before == "reserved":
            fallocate.allocate(fd, offset=0, length=SIZE)
        else:
            os.ftruncate(fd, SIZE)
        zeroes.write(fd, offset=offset, length=end - offset, advance=told.append)
        os.fsync(fd)
        expected = content[:offset] + bytes(end - offset) + content[end:]
        assert os.pread(fd, SIZE + 1, 0) == expected
        assert sum(told) == end - offset
        assert os.fstat(fd).st_size == SIZE
        if filesystem_kind != "tmpfs":
            assert not_written(fd, offset=offset, length=end - offset) == 0


@EVERYWHERE
def test_the_file_grows_to_the_end_of_the_range(staged: Staged) -> None:
    """Behind the file's end as inside it, the tail of less than a block too."""
    zeroes.write(staged.fd, offset=MIB - 7, length=MIB, advance=lambda count: None)
    assert os.fstat(staged.fd).st_size == 2 * MIB - 7
    assert os.pread(staged.fd, 3 * MIB, 0) == bytes(2 * MIB - 7)


@EVERYWHERE
def test_the_descriptor_is_as_it_was(staged: Staged) -> None:
    """O_DIRECT goes again: the next unaligned write succeeds."""
    zeroes.write(staged.fd, offset=0, length=MIB, advance=lambda count: None)
    assert os.pwrite(staged.fd, b"xyz", 1) == 3


@EVERYWHERE
def test_cancelling_keeps_the_descriptor_as_it_was(staged: Staged) -> None:
    """What was written stays; the exception is the one that was raised."""

    def cancel(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zeroes.write(staged.fd, offset=0, length=16 * MIB, advance=cancel)
    assert os.pwrite(staged.fd, b"xyz", 1) == 3


class TestFillingHoles:
    """FillHoles leaves no hole and nothing unwritten, and all data."""

    @pytest.mark.filesystems("ext4", "xfs", "btrfs")
    @pytest.mark.parametrize("nocow", [False, True])
    @pytest.mark.parametrize("tail", [0, 512, 4095])
    def test_data_between_holes_stays(
        self, staged: Staged, filesystem_kind: str, tail: int, nocow: bool
    ) -> None:
        """Dirty pages count as data, clean unwritten extents as holes."""
        if nocow:
            if filesystem_kind != "btrfs":
                return
            inode_flags.add(staged.fd, InodeFlag.NOCOW)
        size = SIZE + tail
        fallocate.allocate(staged.fd, offset=MIB, length=3 * MIB)
        os.ftruncate(staged.fd, size)
        expected = bytearray(size)
        for offset, length in ((0, 1), (MIB - 3, 9), (2 * MIB, 70_000), (size - 1, 1)):
            os.pwrite(staged.fd, b"\xa5" * length, offset)
            expected[offset : offset + length] = b"\xa5" * length
        FillHoles(length=size).run(staged, unwatched("fill"))
        assert self.written(staged.fd, size)
        assert os.pread(staged.fd, size + 1, 0) == expected

    @pytest.mark.filesystems("ext4", "xfs", "btrfs")
    def test_what_was_read_before_is_filled_too(self, staged: Staged) -> None:
        """Clean cached pages over unwritten extents are no data.

        For lseek(2) they are: SEEK_DATA looks for pages in the cache, dirty or not
        (ext4, xfs: mapping_seek_hole_data() in mm/filemap.c). qemu-img reads what it
        copies into.
        """
        Reserve(length=SIZE).run(staged, unwatched("reserve"))
        assert os.pread(staged.fd, MIB, 2 * MIB) == bytes(MIB)
        FillHoles(length=SIZE).run(staged, unwatched("fill"))
        assert self.written(staged.fd, SIZE)

    @EVERYWHERE
    def test_a_shorter_file_grows(self, staged: Staged, filesystem_kind: str) -> None:
        """An empty file as well."""
        FillHoles(length=SIZE).run(staged, unwatched("fill"))
        assert os.fstat(staged.fd).st_size == SIZE
        if filesystem_kind != "tmpfs":
            assert self.written(staged.fd, SIZE)

    def written(self, fd: int, size: int) -> bool:
        """Return whether all of the file was written, once it is on the disk."""
        os.fsync(fd)
        return not_written(fd, offset=0, length=size) == 0
