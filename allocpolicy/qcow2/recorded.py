"""Changing an image as QEMU would, so that a crash leaves the old one or the new.

QEMU works on a `Recorded` image, which keeps what it writes in memory. `commit` then
writes that to the file: first what is in clusters that were free, and refcounts that
are higher; then the header, by one write; then the refcounts that are lower. A crash
in between leaks clusters. What QEMU wrote to clusters that it freed is dropped.

QEMU takes up at once what it frees, which the file still needs until the header is
written. So it sees each refcount one higher than it is: what it frees stays in use.

Specification: QEMU's docs/interop/qcow2.rst.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import refcounts, writer
from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.header import Header
from allocpolicy.record import dataclass

_UNIT = 4096
_LIMIT = 512 << 20
_AMEND = "qemu-img amend -o refcount_bits=16 first"
_REFCOUNT_TABLE_FIELDS = 48, 12  # offset and length of refcount_table_offset, _clusters


class Recorded:
    """An open image's file as somebody changed it, who changes only this record."""

    def __init__(self, fd: int, header: Header, *, path: Path) -> None:
        self._fd, self._path = fd, path
        self.header = header
        self.unit = min(_UNIT, header.cluster_size)
        self.before = Refcounts(read=self.original, header=header)
        self._units: dict[int, bytes] = {}

    def read(self, offset: int, length: int) -> bytes:
        """Return what QEMU sees; beyond the file's end zeroes."""
        return self._assembled(offset, length, self._seen)

    def final(self, offset: int, length: int) -> bytes:
        """Return what the file is to have."""
        return self._assembled(offset, length, self._final)

    def _assembled(
        self, offset: int, length: int, of_unit: Callable[[int], bytes]
    ) -> bytes:
        first, last = offset // self.unit, -(-(offset + length) // self.unit)
        content = b"".join(map(of_unit, range(first, last)))
        start = offset - first * self.unit
        return content[start : start + length]

    def _seen(self, index: int) -> bytes:
        if (changed := self._units.get(index)) is not None:
            return changed
        content = self.original(index * self.unit, self.unit)
        if not self.counts(index * self.unit):
            return content
        bits = self.header.refcount_bits
        raised = [count + (count > 0) for count in _unpacked(content, bits)]
        if max(raised) >= 1 << bits:
            reason = f"its refcounts have only {bits} bits; widen them with {_AMEND}"
            raise ImageError(self._path, reason)
        return _packed(raised, bits)

    def _final(self, index: int) -> bytes:
        content, offset = self._units.get(index), index * self.unit
        if content is None or not self.counts(offset):
            return content or self.original(offset, self.unit)
        bits = self.header.refcount_bits
        before = _unpacked(self.original(offset, self.unit), bits)
        pairs = zip(_unpacked(content, bits), before, strict=True)
        return _packed([count - (was > 0) for count, was in pairs], bits)

    def counts(self, offset: int) -> bool:
        """Return whether the offset is inside a refcount block of the file."""
        return offset // self.header.cluster_size in self.before.blocks

    def original(self, offset: int, length: int) -> bytes:
        """Return what the file has; beyond its end zeroes."""
        content = bytearray()
        while len(content) < length:
            chunk = os.pread(self._fd, length - len(content), offset + len(content))
            if not chunk:
                break
            content += chunk
        return bytes(content.ljust(length, b"\0"))

    def write(self, offset: int, content: bytes) -> None:
        """Record a write.

        :raises ImageError: when that takes too much memory.
        """
        first, last = offset // self.unit, -(-(offset + len(content)) // self.unit)
        whole = bytearray(self.read(first * self.unit, (last - first) * self.unit))
        start = offset - first * self.unit
        whole[start : start + len(content)] = content
        for index in range(first, last):
            place = (index - first) * self.unit
            self._units[index] = bytes(whole[place : place + self.unit])
        if len(self._units) * self.unit > _LIMIT:
            raise ImageError(self._path, "it needs too much new metadata at once")

    @property
    def changed(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, final content) of each unit that is not as the file has it."""
        for index in sorted(self._units):
            content, offset = self._final(index), index * self.unit
            if self.original(offset, self.unit) != content:
                yield offset, content


@dataclass(frozen=True, kw_only=True)
class Refcounts:
    """The refcounts of an image, read through a function."""

    read: Callable[[int, int], bytes]
    header: Header

    @cached_property
    def table(self) -> tuple[int, ...]:
        """Return the host offsets of the refcount blocks, 0 for those that aren't."""
        fields = self.read(*_REFCOUNT_TABLE_FIELDS)
        offset, clusters = int.from_bytes(fields[:8], "big"), fields[8:]
        length = int.from_bytes(clusters, "big") * self.header.cluster_size
        content = self.read(offset, length)
        return tuple(
            int.from_bytes(content[start : start + TABLE_ENTRY_SIZE], "big")
            for start in range(0, length, TABLE_ENTRY_SIZE)
        )

    def of(self, cluster: int) -> int:
        """Return the refcount of a host cluster."""
        per_block = refcounts.refcounts_per_block(self.header)
        index, inside = divmod(cluster, per_block)
        if index >= len(self.table) or not (block := self.table[index]):
            return 0
        bits = self.header.refcount_bits
        place, width = block + inside * bits // 8, -(-bits // 8)
        return _unpacked(self.read(place, width), bits)[inside * bits % 8 // bits]

    @cached_property
    def blocks(self) -> frozenset[int]:
        """Return the host clusters that are refcount blocks."""
        size = self.header.cluster_size
        return frozenset(offset // size for offset in self.table if offset)

    @property
    def end(self) -> int:
        """Return a host cluster after the last one in use, fewer than 8 after it."""
        per_block = refcounts.refcounts_per_block(self.header)
        for index in reversed(range(len(self.table))):
            if block := self.table[index]:
                filled = self.read(block, self.header.cluster_size).rstrip(b"\0")
                if filled:
                    inside = -(-len(filled) * 8 // self.header.refcount_bits)
                    return index * per_block + inside
        return 0


def commit(recorded: Recorded, fd: int, *, advance: Callable[[int], None]) -> None:
    """Write what was recorded to the file.

    :param advance: receives the number of bytes of each write.
    :raises OSError: as pwrite(2), ftruncate(2) and fsync(2).
    """
    size, before = recorded.header.cluster_size, recorded.before
    after = Refcounts(read=recorded.final, header=recorded.header)
    new, kept, counts, head = [], [], [], []
    for offset, content in recorded.changed:
        cluster = offset // size
        if not cluster:
            head.append((offset, content))
        elif not before.of(cluster):
            new.append((offset, content))
        elif not after.of(cluster):
            continue
        elif recorded.counts(offset):
            counts.append((offset, content))
        else:
            kept.append((offset, content))
    if os.fstat(fd).st_size < after.end * size:
        os.ftruncate(fd, after.end * size)
    _write(fd, new, advance=advance)
    higher = [
        (offset, _higher(recorded.original(offset, len(content)), content, recorded))
        for offset, content in counts
    ]
    _write(fd, higher, advance=advance)
    _write(fd, kept, advance=advance)
    _write(fd, _at_once(recorded, head), advance=advance)
    _write(fd, counts, advance=advance)


def _write(
    fd: int, pieces: Iterable[tuple[int, bytes]], *, advance: Callable[[int], None]
) -> None:
    """Write (offset, content) pieces, and sync."""
    for offset, content in pieces:
        writer.write_all(fd, [content], offset=offset, advance=advance)
    os.fsync(fd)


def _at_once(
    recorded: Recorded, head: list[tuple[int, bytes]]
) -> list[tuple[int, bytes]]:
    """Return what changed in the header's cluster as one piece."""
    if not head:
        return []
    first, (last, content) = head[0][0], head[-1]
    return [(first, recorded.final(first, last + len(content) - first))]


def _higher(old: bytes, new: bytes, recorded: Recorded) -> bytes:
    """Return refcounts of which none is lower than in either of two blocks."""
    bits = recorded.header.refcount_bits
    return _packed(list(map(max, _unpacked(old, bits), _unpacked(new, bits))), bits)


def _unpacked(content: bytes, bits: int) -> list[int]:
    """Return refcounts: big endian, or the lowest bits of a byte first."""
    if bits >= 8:
        width = bits // 8
        starts = range(0, len(content), width)
        return [int.from_bytes(content[one : one + width], "big") for one in starts]
    mask, shifts = (1 << bits) - 1, range(0, 8, bits)
    return [byte >> shift & mask for byte in content for shift in shifts]


def _packed(counts: list[int], bits: int) -> bytes:
    """Return the refcounts as they are stored."""
    if bits >= 8:
        return b"".join(count.to_bytes(bits // 8, "big") for count in counts)
    each = 8 // bits
    return bytes(
        sum(
            count << place * bits
            for place, count in enumerate(counts[one : one + each])
        )
        for one in range(0, len(counts), each)
    )
