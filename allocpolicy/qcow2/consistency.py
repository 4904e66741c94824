"""Checking that the tables of a qcow2 image are consistent, before QEMU sees them.

Specification: QEMU's docs/interop/qcow2.rst, "Cluster mapping". Unlike qemu-img check
this doesn't count references: it checks that nothing points outside the file, or at
clusters that something else uses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.errors import ImageError
from allocpolicy.qcow2 import geometry, linear, mapping, plain, tables
from allocpolicy.qcow2.claims import Claims, CompressedData, merged, runs_of
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.qcow2.mapping import Mapped, Tally, forget_beyond_virtual_size
from allocpolicy.qcow2.plain import Plain
from allocpolicy.qcow2.references import Place, References
from allocpolicy.qcow2.tables import (
    ALL_SUBCLUSTERS,
    COPIED,
    L2_RESERVED,
    OFFSET,
    ZERO,
)
from allocpolicy.record import dataclass

if TYPE_CHECKING:
    from allocpolicy.qcow2.claims import Runs
    from allocpolicy.qcow2.tables import Batch, Entries, L2Tables, Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A qcow2 whose tables are consistent, how they map it, and what they refer to."""

    header: Header
    mapped: Mapped
    references: References


def checked(fd: int, *, path: Path) -> Checked:
    """Read and check an open qcow2, which may have the state of a virtual machine.

    :raises ImageError: when its header or its tables are malformed.
    """
    header = read_header(fd, path=path)
    return _checked(fd, header, path=path, vm_state=True)


def check_tables(
    fd: int, header: Header, *, path: Path, vm_state: bool = False
) -> Mapped:
    """Check every L1 and L2 entry, and that no two entries share a host cluster.

    Return how much of the virtual size is mapped, a by-product of the check.

    Tables must be whole; data must start inside the file, but the file may end inside
    its last cluster. Tables are read a few at a time. In addition, memory holds a few
    times 16 bytes per contiguous run of host clusters in use, 8 per compressed cluster,
    and copies of the L1: measured 340 MiB for the largest L1 (32 MiB, with clusters of
    512 bytes), 12 MiB for 1 TiB with metadata preallocated.

    No two compressed clusters begin at one host offset: QEMU makes none, and a few KiB
    could be read as terabytes.

    L2 tables beyond the virtual size are refused: a base image has no VM state, and a
    small sparse file could make us read 400,000 tables of 2 MiB. With ``vm_state`` they
    are left unread: QEMU leaves them behind after saving a running machine.

    :raises ImageError: naming the L1 entry or the guest offset that is wrong.
    """
    return _checked(fd, header, path=path, vm_state=vm_state).mapped


def _checked(fd: int, header: Header, *, path: Path, vm_state: bool) -> Checked:
    places = _linear_places(fd, header, path=path)
    if places is not None:
        references = References.of_places(places)
        mapped = mapping.of_linear(header)
        return Checked(header=header, mapped=mapped, references=references)
    found = plain.find(fd, header)
    places = None if found is None else _plain_places(fd, header, found, path=path)
    if found is not None and places is not None:
        tally = Tally(header)
        tally.add_pieces(found)
        references = References.of_places(places)
        return Checked(header=header, mapped=tally.mapped, references=references)
    l2 = tables.read_l2_tables(fd, header, path=path)
    tally = Tally(header, l2)
    if l2 is None:
        references = References.of_places(metadata_places(fd, header, path=path))
        return Checked(header=header, mapped=tally.mapped, references=references)
    if not vm_state:
        refuse_vm_state(tally.mapped, path=path)
    references = _checked_references(fd, header, l2, tally=tally, path=path)
    return Checked(header=header, mapped=tally.mapped, references=references)


def _checked_references(
    fd: int, header: Header, l2: L2Tables, *, tally: Tally, path: Path
) -> References:
    """Check every entry, add it up, and return what is referred to."""
    claims = _claimed_metadata(fd, header, l2, path=path)
    guest = l2.below(header.needed_l1_entries)
    compressed = CompressedData(header)
    for used in _checked_entries(fd, header, guest, tally=tally, path=path):
        compressed.add(used)
        twice = None
        if not header.has_external_data_file:
            twice = claims.add(runs_of(used.data_clusters()))
        _refuse_shared(fd, header, guest, host=twice, path=path)
    data = compressed.named_twice()
    _refuse_shared_data(fd, header, guest, data=data, path=path)
    claims.add(runs_of(compressed.clusters()))
    _refuse_shared(fd, header, guest, host=claims.claimed_twice(), path=path)
    runs = claims.runs
    return References.of_runs(
        merged([runs, *compressed.spans]) if compressed.spans else runs
    )


def refuse_vm_state(mapped: Mapped, *, path: Path) -> None:
    """Check that nothing is mapped beyond the virtual size.

    :raises ImageError: naming an L1 entry that is beyond it.
    """
    if mapped.beyond is not None:
        reason = (
            f"L1 entry {mapped.beyond} is beyond its virtual size (a virtual machine's"
            " state?); drop it with qemu-img convert first"
        )
        raise ImageError(path, reason)


def _checked_entries(
    fd: int, header: Header, l2: L2Tables, *, tally: Tally, path: Path
) -> Iterator[Batch]:
    """Yield the entries that aren't empty, checked; what is inside the guest counts."""
    for batch in tables.read_batches(fd, header, l2, path=path):
        file_size = os.fstat(fd).st_size  # its size now: a VM's QEMU may append to it
        used = batch.used()
        _check_entries(used, file_size=file_size, path=path)
        yield used
        tally.add(batch.used() if forget_beyond_virtual_size(batch) else used)


def _claimed_metadata(fd: int, header: Header, l2: L2Tables, *, path: Path) -> Claims:
    """Return claims of what holds no data.

    :raises ImageError: when metadata overlaps, naming the L1 entry if there is one.
    """
    claims = Claims()
    claims.add(_metadata_runs(fd, header, l2, path=path))
    host = claims.claimed_twice()
    if host is not None:
        named = l2.indices[l2.offsets == host * header.cluster_size]
        what = f"L1 entry {named[0]} points into" if len(named) else "there is"
        at = f"at host offset {host * header.cluster_size}"
        raise ImageError(path, f"{what} metadata that overlaps other metadata, {at}")
    return claims


def _metadata_runs(fd: int, header: Header, l2: L2Tables, *, path: Path) -> Runs:
    """Return where header, L1, L2 tables, refcount table and refcount blocks are."""
    import numpy as np

    size = header.cluster_size
    fixed = metadata_places(fd, header, path=path)
    starts = np.concatenate(([start for start, _ in fixed], l2.offsets // size))
    ends = np.concatenate(([end for _, end in fixed], l2.offsets // size + 1))
    return starts, ends


def metadata_places(fd: int, header: Header, *, path: Path) -> list[Place]:
    """Return where the header, the L1 table and all that counts refcounts are.

    :raises ImageError: naming the refcount table entry that is wrong.
    """
    size = header.cluster_size
    l1_size = header.l1_entries * geometry.TABLE_ENTRY_SIZE
    table_size = header.refcount_table_clusters * size
    blocks = tables.read_refcount_table(fd, header, path=path)
    places = (
        (0, size),
        (header.l1_offset, l1_size),
        (header.refcount_table_offset, table_size),
        *((block, size) for block in blocks if block),
    )
    return [(start // size, -(-(start + length) // size)) for start, length in places]


def _linear_places(fd: int, header: Header, *, path: Path) -> list[Place] | None:
    """Return what is used if all of the guest is mapped in a few runs.

    That is so in images with preallocated metadata. None means: look closer; something
    may overlap.

    :raises ImageError: naming the refcount table entry that is wrong.
    """
    if header.has_external_data_file or header.l1_entries != header.needed_l1_entries:
        return None
    runs = linear.find(fd, header)
    if runs is None:
        return None
    size = header.cluster_size
    pieces = ((host // size, count) for _, host, count in (*runs.l2, *runs.data))
    return _apart(
        [
            *metadata_places(fd, header, path=path),
            *((first, first + count) for first, count in pieces),
        ]
    )


def _plain_places(
    fd: int, header: Header, found: Plain, *, path: Path
) -> list[Place] | None:
    """Return what is used of an image with plain tables; None: something overlaps.

    :raises ImageError: naming the refcount table entry that is wrong.
    """
    size = header.cluster_size
    data = (
        ((entry & OFFSET) // size, count)
        for _, entry, count in found.pieces
        if entry & OFFSET
    )
    return _apart(
        [
            *metadata_places(fd, header, path=path),
            *((offset // size, offset // size + 1) for offset in found.l2_offsets),
            *((first, first + count) for first, count in data),
        ]
    )


def _apart(places: list[Place]) -> list[Place] | None:
    """Return the places in order, adjacent ones as one; None if any two overlap."""
    found: list[Place] = []
    for start, end in sorted(places):
        if found and start < found[-1][1]:
            return None
        if found and start == found[-1][1]:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


def _check_entries(batch: Batch, *, file_size: int, path: Path) -> None:
    """Check every entry on its own."""
    tables.refuse_entries(
        _faults(batch, file_size=file_size),
        name=lambda position: f"guest offset {batch.guest_offset(position)}",
        path=path,
    )


def _faults(batch: Batch, *, file_size: int) -> Iterator[tuple[Mask, str]]:
    import numpy as np

    header, standard = batch.header, batch.standard
    offsets = (standard & OFFSET).astype(np.uint64, copy=False)
    zero_flag = header.version > 2 and not header.extended_l2
    reserved = L2_RESERVED | (0 if zero_flag else ZERO)
    yield (standard & reserved) != 0, "has reserved bits set in its L2 entry"
    unaligned = (offsets & (header.cluster_size - 1)) != 0
    yield unaligned, "is mapped to an unaligned host offset"
    if header.has_external_data_file:
        yield from _external_faults(batch, offsets=offsets)
    else:
        yield offsets >= file_size, "is mapped to an offset outside the file"
        nowhere = (standard & (OFFSET | COPIED)) == COPIED
        yield nowhere, "is marked as in use, but is not mapped"
    yield from _compressed_faults(batch, file_size=file_size)
    if batch.bitmaps is not None:
        yield from _subcluster_faults(batch, bitmaps=batch.bitmaps)


def _external_faults(batch: Batch, *, offsets: Entries) -> Iterator[tuple[Mask, str]]:
    """External data: the host offset must match the guest offset."""
    import numpy as np

    width, size = batch.width, batch.header.cluster_size
    guest = (batch.indices[:, None] * width + np.arange(width)).reshape(-1) * size
    elsewhere = (offsets != 0) & (offsets != guest.astype(np.uint64))
    yield elsewhere, "is mapped to a different offset of the external data file"
    yield batch.compressed, "is compressed in an external data file"


def _compressed_faults(batch: Batch, *, file_size: int) -> Iterator[tuple[Mask, str]]:
    compressed = batch.compressed
    if not compressed.any():
        return
    outside = compressed & (batch.compressed_offsets >= file_size)
    yield outside, "has compressed data that starts outside the file"
    copied = compressed & ((batch.entries & COPIED) != 0)
    yield copied, "is compressed, but marked as not compressed"
    if batch.bitmaps is not None:
        yield compressed & (batch.bitmaps != 0), "is compressed, with subclusters"


def _subcluster_faults(batch: Batch, *, bitmaps: Entries) -> Iterator[tuple[Mask, str]]:
    both = bitmaps & (bitmaps >> geometry.SUBCLUSTERS)
    yield both != 0, "has a subcluster that is both allocated and zero"
    allocated = (bitmaps & ALL_SUBCLUSTERS) != 0
    nowhere = allocated & ((batch.entries & batch.host_bits) == 0)
    yield nowhere, "has an allocated subcluster, but is not mapped"


def _refuse_shared_data(
    fd: int, header: Header, l2: L2Tables, *, data: int | None, path: Path
) -> None:
    """Read the tables again to tell what uses the compressed data at a host offset.

    :raises ImageError: unless that is None.
    """
    if data is None:
        return
    users: list[int] = []
    for batch in tables.read_batches(fd, header, l2, path=path):
        mask = batch.compressed & (batch.compressed_offsets == data)
        users += map(batch.guest_offset, mask.nonzero()[0][:2].tolist())
    named = " and ".join(map(str, sorted(users)[:2]))
    at = f"host offset {data}"
    raise ImageError(path, f"guest offsets {named} share compressed data at {at}")


def _refuse_shared(
    fd: int, header: Header, l2: L2Tables, *, host: int | None, path: Path
) -> None:
    """Read the tables again to tell what uses the host cluster.

    :raises ImageError: unless that is None.
    """
    if host is None:
        return
    users: list[int] = []
    for batch in tables.read_batches(fd, header, l2, path=path):
        standard = batch.standard & OFFSET == host * header.cluster_size
        start = batch.compressed_offsets // header.cluster_size == host
        mask = standard | (batch.compressed & start)
        users += map(batch.guest_offset, mask.nonzero()[0][:2].tolist())
    at = f"host offset {host * header.cluster_size}"
    if len(users) == 1:
        reason = f"guest offset {users[0]} is mapped onto metadata at {at}"
    else:
        named = " and ".join(map(str, sorted(users)[:2]))
        reason = f"guest offsets {named} share a host cluster at {at}"
    raise ImageError(path, reason)
