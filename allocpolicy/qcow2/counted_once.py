"""Whether a qcow2's refcounts are those of an image in which all clusters are in use.

Each cluster of the file is then referred to once, and has a refcount of one; what is
behind the file's end has none. Blocks are compared as bytes, without numpy.

Specification: QEMU's docs/interop/qcow2.rst, "Host cluster management".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import consistency, tables
from allocpolicy.qcow2.geometry import REFCOUNT_SIZE
from allocpolicy.qcow2.header import Header
from allocpolicy.storage import effort, reading

_REPAIR = "repair it with qemu-img check -r all"
_BATCH = 1 << 20
_ONE = (1).to_bytes(REFCOUNT_SIZE, "big")


def check(fd: int, header: Header, *, clusters: int, path: Path) -> int | None:
    """Return how many of the file's clusters leak, as they are counted more than once.

    None if more than the file's clusters is counted, or where refcounts have another
    width than 16 bits. To QEMU it is a leak if what isn't said to have a refcount of
    one (the COPIED bit) is counted more often.

    :param clusters: how many the file has, all of which are referred to once.
    :raises ImageError: when one of these has another refcount, which isn't a leak.
    """
    if header.refcount_bits != 8 * REFCOUNT_SIZE:
        return None
    table = tables.read_refcount_table(fd, header, path=path)
    per_block, done = header.cluster_size // REFCOUNT_SIZE, 0
    leaked = 0
    for offset, blocks in _runs(table, size=header.cluster_size):
        effort.check()
        count = blocks * per_block
        found = b""  # without a block
        if offset:
            found = reading.read(fd, count * REFCOUNT_SIZE, offset=offset)
        used = min(count, max(0, clusters - done))
        if not found.startswith(_ONE * used):
            leaked += _leaked(fd, found, header, done, used, path=path)
        if found.count(0, used * REFCOUNT_SIZE) < len(found) - used * REFCOUNT_SIZE:
            return None
        done += count
    if done < clusters:
        _leaked(fd, b"", header, done, clusters - done, path=path)
    return leaked


def _runs(table: tuple[int, ...], *, size: int) -> Iterator[tuple[int, int]]:
    """Yield (host offset, blocks) of blocks that are adjacent, some at once."""
    most = max(1, _BATCH // size)
    start = count = 0
    for offset in table:
        follows = start and offset == start + count * size
        if count and (not follows or count == most):
            yield start, count
            count = 0
        start = start if count else offset
        count += 1
    if count:
        yield start, count


def _leaked(
    fd: int, found: bytes, header: Header, done: int, used: int, *, path: Path
) -> int:
    """Return how many of these clusters are counted more than once, and may be.

    :raises ImageError: naming the first with another wrong refcount.
    """
    places = consistency.metadata_places(fd, header, path=path)
    leaked = 0
    for index in range(used):
        entry = found[index * REFCOUNT_SIZE : (index + 1) * REFCOUNT_SIZE]
        if entry == _ONE:
            continue
        number, cluster = int.from_bytes(entry, "big"), done + index
        if number and any(start <= cluster < end for start, end in places):
            leaked += 1
            continue
        host = cluster * header.cluster_size
        reason = f"the cluster at host offset {host} is in use once, and counted"
        raise ImageError(path, f"{reason} {number} times: {_REPAIR}")
    return leaked
