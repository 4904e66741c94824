"""What an image says of which most metadata is known to be another image's.

A guest that writes zeroes sets a flag in the entries of clusters that stay where they
are; a QEMU that opens an image may write the header that was there. Neither makes a
difference to what is in use. Whatever does must be read with all the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.qcow2.survey import Survey
from allocpolicy.qcow2.tables import ZERO
from allocpolicy.record import replace
from allocpolicy.storage import effort, reading

_ENTRY_BITS = 64


def survey(
    fd: int, other: int, known: Survey, *, clusters: Iterable[int], path: Path
) -> Survey | None:
    """Return what an open image says; None if that takes reading all of it.

    :param other: the open image that is ``known``, of the same length.
    :param clusters: those of its metadata that may differ in the first image.
    """
    header, cleared = known.header, 0
    for cluster in clusters:
        effort.check()
        mine, theirs = _read(fd, cluster, header), _read(other, cluster, header)
        if mine == theirs:
            continue
        if cluster == 0 and _has_header(fd, header, path=path):
            continue
        fewer = _fewer_zeroes(mine, theirs) if _is_plain(known, cluster) else None
        if fewer is None:
            return None
        cleared += fewer
    data = known.mapped.data_bytes + cleared * header.cluster_size
    return replace(known, mapped=replace(known.mapped, data_bytes=data))


def _read(fd: int, cluster: int, header: Header) -> bytes:
    size = header.cluster_size
    return reading.read(fd, size, offset=cluster * size)


def _has_header(fd: int, header: Header, *, path: Path) -> bool:
    try:
        return read_header(fd, path=path) == header
    except ImageError:
        return False


def _is_plain(known: Survey, cluster: int) -> bool:
    """Return whether the cluster is an L2 table whose entries' lowest bit is a flag."""
    header, places = known.header, known.metadata
    flagged = header.version > 2 and not header.extended_l2
    if not flagged or known.mapped.compressed or places is None:
        return False
    return any(start <= cluster < end for start, end in places.l2)


def _fewer_zeroes(mine: bytes, theirs: bytes) -> int | None:
    """Return how many entries lost the flag; None if anything but the flag changed."""
    if len(mine) != len(theirs):
        return None
    flags = int.from_bytes(ZERO.to_bytes(_ENTRY_BITS // 8, "big") * (len(mine) // 8))
    new, old = int.from_bytes(mine), int.from_bytes(theirs)
    if (new ^ old) & ~flags:
        return None
    return (old & ~new & flags).bit_count()
