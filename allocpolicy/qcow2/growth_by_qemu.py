"""What of a growth is left to QEMU, and what it must not be asked for.

Specification: QEMU's docs/interop/qcow2.rst; QEMU's qcow2_co_truncate().
"""

from __future__ import annotations

from pathlib import Path

from allocpolicy.errors import refuse
from allocpolicy.qcow2 import geometry, obstacles
from allocpolicy.qcow2.geometry import REFCOUNT_SIZE
from allocpolicy.qcow2.growth import QEMU_REMEDIES, RESIZE, stale_bytes
from allocpolicy.qcow2.growth_layout import any_last_l2
from allocpolicy.qcow2.header import Header

_COPY = "copy it with qemu-img convert first"
_AMEND = "run qemu-img amend -o compat=1.1 first"


def is_needed(header: Header, *, virtual_size: int, backing_size: int) -> bool:
    """Return whether growing the image takes QEMU, which may refuse."""
    return bool(
        header.snapshots
        or header.has_bitmaps
        or header.refcount_bits != 8 * REFCOUNT_SIZE
        or header.virtual_size < min(backing_size, virtual_size)
    )


def check(
    fd: int,
    header: Header,
    *,
    path: Path,
    virtual_size: int,
    mapped: bool,
    backing_size: int,
) -> None:
    """Check that QEMU can be left to grow the image, which may have what we can't grow.

    :raises ImageError: when it would refuse, or show what the guest must not see.
    :raises InvalidRequest: when qcow2 has no such virtual size.
    """
    old = header.virtual_size
    faults = list(obstacles.faults(header, remedies=QEMU_REMEDIES))
    early = header.version < 3 and header.snapshots > 0
    faults.append((early, f"it has snapshots in version 2; {_AMEND}"))
    # QEMU would copy the first part of a cluster from a backing file that it lacks.
    shorter = old < min(backing_size, virtual_size) and old % header.cluster_size != 0
    faults.append((shorter, f"its backing file is longer than it; {RESIZE}"))
    hidden = mapped and header.backing_file is not None
    faults.append((hidden, f"its new clusters can't be mapped by QEMU; {RESIZE}"))
    refuse(faults, path=path)
    geometry.geometry(
        virtual_size, cluster_size=header.cluster_size, extended_l2=header.extended_l2
    )
    last_l2 = any_last_l2(fd, header)
    _, stale = stale_bytes(fd, header, last_l2, path=path)
    refuse([(stale > 0, f"it was shrunk, and has bytes beyond; {_COPY}")], path=path)
