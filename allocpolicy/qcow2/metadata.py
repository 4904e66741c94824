"""Where the metadata of a checked qcow2 image is, in a few runs of host clusters.

Another file that has the same content there is the same image, whatever data it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from allocpolicy.qcow2.consistency import Checked, metadata_places
from allocpolicy.qcow2.geometry import TABLE_ENTRY_SIZE
from allocpolicy.qcow2.references import Place, are_all
from allocpolicy.qcow2.tables import OFFSET
from allocpolicy.record import dataclass
from allocpolicy.storage import reading

_LARGEST_L1 = 1 << 20  # bytes
_MOST = 64  # runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Runs of host clusters, sorted and apart: L2 tables, and all other metadata."""

    l2: tuple[Place, ...]
    others: tuple[Place, ...]


def of(fd: int, checked: Checked, *, path: Path) -> Metadata | None:
    """Return where an image's metadata is; None where it is too scattered to be known.

    None, too, if anything but the guest's tables refers to clusters: snapshots, bitmaps
    and the like, or if the data is in another file.

    :raises ImageError: when the tables have changed since they were checked.
    """
    header = checked.header
    size = header.l1_entries * TABLE_ENTRY_SIZE
    alone = are_all(header, beyond=checked.mapped.beyond)
    if not alone or header.has_external_data_file or size > _LARGEST_L1:
        return None
    l1 = memoryview(reading.read(fd, size, offset=header.l1_offset))
    entries = (int.from_bytes(l1[at : at + 8], "big") for at in range(0, len(l1), 8))
    tables = (entry & OFFSET for entry in entries)
    clusters = (offset // header.cluster_size for offset in tables if offset)
    l2 = _merged((cluster, cluster + 1) for cluster in clusters)
    others = _merged(metadata_places(fd, header, path=path))
    if len(l2) + len(others) > _MOST:
        return None
    return Metadata(l2=l2, others=others)


def _merged(places: Iterable[Place]) -> tuple[Place, ...]:
    """Return sorted runs of places, which are apart; adjacent ones become one."""
    runs: list[Place] = []
    for start, end in sorted(places):
        if runs and runs[-1][1] == start:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return tuple(runs)
