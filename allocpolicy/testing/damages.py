"""What happens to disks' storage behind a strategy's back, done for real."""

from __future__ import annotations

import contextlib
import enum
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from allocpolicy import DiskFormat
from allocpolicy.testing import as_guest
from allocpolicy.testing.as_guest import run
from allocpolicy.testing.law import NotApplicable

_BLOCK = 64 << 10
_MORE = 1 << 20  # bytes by which somebody else lets a disk grow


class Damage(enum.StrEnum):
    """What somebody did to a disk. The guest reads what it read; a grown disk, more."""

    #: blocks that read as zeroes are holes; a qcow2 maps fewer clusters
    DISCARD = "its guest discarded what it doesn't use"
    #: the same by zero writes, where QEMU unmaps
    ZEROES = "its guest wrote zeroes, which QEMU unmapped, where there were zeroes"
    #: blocks of zeroes in the file are holes
    HOLES = "fallocate --dig-holes was run on it"
    #: the same by a copy
    SPARSE_COPY = "it was copied by cp --sparse=always"
    #: all of its file is written
    FULL_COPY = "it was copied by cp --sparse=never"
    #: its blocks are shared with the copy
    REFLINK = "it was copied by cp --reflink=always"
    #: the file is shorter, or its end is a hole
    TRUNCATE = "what is behind its last data was cut off"
    #: it is thin, and its metadata is what qemu-img chose
    CONVERSION = "qemu-img convert made it anew"
    #: the disk is larger, and nothing of that is reserved
    GROWTH = "qemu-img resize made it larger"
    #: clusters are shared inside a qcow2
    SNAPSHOT = "qemu-img snapshot made a snapshot inside"
    #: replacing one name leaves the other
    HARD_LINK = "it got a second name"
    #: blocks are compressed, and move when they are written
    COMPRESSION = "btrfs filesystem defragment compressed it"


def damaged(disk: Path, damage: Damage, *, format: DiskFormat) -> Path:
    """Damage a disk that nobody has open, and return its path.

    It keeps its stamp. What is left beside it (the copy that shares its blocks, the
    second name) is called after the disk, with the suffix ``.other``.

    :raises NotApplicable: when the damage can't happen here, to such a disk.
    :raises OSError: when a program fails.
    """
    _DOINGS[damage](disk, format)
    return disk


def _discard(disk: Path, format: DiskFormat, *, zero: bool) -> None:
    ranges = list(_zeroes(as_guest.read(disk, format)))
    if not ranges:
        raise NotApplicable("the guest uses all of the disk")
    as_guest.discard(disk, format, ranges, zero=zero)


def _zeroes(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the runs of blocks that are all zeroes."""
    start, zero = 0, bytes(_BLOCK)
    for offset in range(0, len(content), _BLOCK):
        block = content[offset : offset + _BLOCK]
        if block == zero[: len(block)]:
            continue
        if start < offset:
            yield start, offset - start
        start = offset + len(block)
    if start < len(content):
        yield start, len(content) - start


def _dig_holes(disk: Path, format: DiskFormat) -> None:
    try:
        run("fallocate", "--dig-holes", disk)
    except OSError as error:
        raise NotApplicable(f"no holes can be dug here: {error}") from error


def _copy(disk: Path, format: DiskFormat, *, how: tuple[str, ...]) -> None:
    """Put a copy in the disk's place."""
    copy = _other(disk)
    run("cp", "--preserve=all", *how, disk, copy)
    copy.replace(disk)


def _reflink(disk: Path, format: DiskFormat) -> None:
    copy, clone = _other(disk), ("cp", "--preserve=all", "--reflink=always")
    try:
        run(*clone, disk, copy)
    except OSError:
        copy.unlink(missing_ok=True)
        _reflink_nocow(disk, copy)


def _reflink_nocow(disk: Path, copy: Path) -> None:
    """Share blocks as a NOCOW file does, which btrfs shares with such files only."""
    try:
        copy.touch()
        run("chattr", "+C", copy)
        run("cp", "--reflink=always", disk, copy)
    except OSError as error:
        copy.unlink(missing_ok=True)
        raise NotApplicable(f"files can't share blocks here: {error}") from error


def _truncate(disk: Path, format: DiskFormat) -> None:
    """Cut the file behind its last byte that isn't zero; give it the length back.

    A qcow2 keeps the shorter length if all of its clusters are before that.
    """
    content = disk.read_bytes()
    used = -(-len(content.rstrip(b"\0")) // _BLOCK) * _BLOCK
    end = len(content)
    if format is DiskFormat.QCOW2:
        end = _end_of_clusters(disk)
        used = max(used, end) if end < len(content) else used
    if used >= len(content):
        raise NotApplicable("the disk has data up to its end")
    os.truncate(disk, used)
    if used < end:
        os.truncate(disk, len(content))


def _end_of_clusters(disk: Path) -> int:
    checked = json.loads(run("qemu-img", "check", "--output=json", "-f", "qcow2", disk))
    return int(checked["image-end-offset"])


def _convert(disk: Path, format: DiskFormat) -> None:
    copy = _other(disk)
    run("qemu-img", "convert", "-f", format, "-O", format, disk, copy)
    with contextlib.suppress(OSError):  # tmpfs before Linux 6.6 has none
        for name in os.listxattr(disk):
            os.setxattr(copy, name, os.getxattr(disk, name))
    copy.replace(disk)


def _grow(disk: Path, format: DiskFormat) -> None:
    run("qemu-img", "resize", "-q", "-f", format, disk, f"+{_MORE}")


def _snapshot(disk: Path, format: DiskFormat) -> None:
    if format is not DiskFormat.QCOW2:
        raise NotApplicable("a raw disk has no snapshots inside")
    run("qemu-img", "snapshot", "-c", "somebody's", disk)


def _link(disk: Path, format: DiskFormat) -> None:
    _other(disk).hardlink_to(disk)


def _compress(disk: Path, format: DiskFormat) -> None:
    try:
        run("btrfs", "filesystem", "defragment", "-czstd", "-f", disk)
    except OSError as error:
        raise NotApplicable(f"files can't be compressed here: {error}") from error


def _other(disk: Path) -> Path:
    return disk.with_name(f"{disk.name}.other")


_DOINGS: Mapping[Damage, Callable[[Path, DiskFormat], None]] = {
    Damage.DISCARD: partial(_discard, zero=False),
    Damage.ZEROES: partial(_discard, zero=True),
    Damage.HOLES: _dig_holes,
    Damage.SPARSE_COPY: partial(_copy, how=("--sparse=always", "--reflink=never")),
    Damage.FULL_COPY: partial(_copy, how=("--sparse=never", "--reflink=never")),
    Damage.REFLINK: _reflink,
    Damage.TRUNCATE: _truncate,
    Damage.CONVERSION: _convert,
    Damage.GROWTH: _grow,
    Damage.SNAPSHOT: _snapshot,
    Damage.HARD_LINK: _link,
    Damage.COMPRESSION: _compress,
}
