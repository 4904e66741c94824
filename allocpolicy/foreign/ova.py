"""OVA: a tar archive with a description (OVF) and the disks of a VM; one is expected.

Specification: DMTF DSP0243, Open Virtualization Format, 5.3 (a single file).
Only the archive's list of files is read: what the description says decides nothing.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from allocpolicy.errors import ImageError
from allocpolicy.record import dataclass

DESCRIPTION = ".ovf"
DISKS = frozenset({".vmdk", ".vhd", ".vhdx", ".vdi", ".qcow2", ".img", ".raw"})
_MOST_FILES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in the archive: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


def is_ova(fd: int) -> bool:
    """Return whether an open tar archive holds the description of a VM."""
    return any(_suffix(one) == DESCRIPTION for one in _members(fd))


def disk(fd: int, *, path: Path) -> Member:
    """Return the only disk in an open archive.

    :raises ImageError: when there is none, or more than one, or it is cut short.
    """
    members = _members(fd)
    disks = [one for one in members if _suffix(one) in DISKS]
    if len(disks) != 1:
        among = ", ".join(one.name for one in (disks or members))
        reason = (
            f"it is an OVA with {len(disks)} disks, and must have one: {among:.500}"
        )
        raise ImageError(path, f"{reason}; take the disk out of it first (tar -xf)")
    if disks[0].offset + disks[0].size > os.fstat(fd).st_size:
        raise ImageError(path, f"it is an OVA that is cut short in {disks[0].name}")
    return disks[0]


def _suffix(member: Member) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _members(fd: int) -> list[Member]:
    """Return the regular files, as far as they can be read: the first thousand."""
    import tarfile  # 10 ms, for archives only

    found = []
    with os.fdopen(os.dup(fd), "rb") as stream:
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for entry, _ in zip(archive, range(_MOST_FILES), strict=False):
                    if entry.isreg() and not entry.issparse():
                        found.append(
                            Member(
                                name=entry.name,
                                offset=entry.offset_data,
                                size=entry.size,
                            )
                        )
        except (tarfile.TarError, ValueError, OverflowError, OSError):
            pass  # cut short, or damaged: what was found until then
    return found
