"""vmdk of several files: a descriptor, and the extents that lie beside it.

Specification: VMware, "Virtual Disk Format 5.0", "The Disk Descriptor File".
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.foreign import vmdk
from allocpolicy.foreign.reading import MERGE, SECTOR
from allocpolicy.foreign.recognition import BYTE_ORDER_MARKS
from allocpolicy.record import dataclass
from allocpolicy.storage import reading

MAX_SIZE = 1 << 20  # QEMU reads no more
MOST = 4096  # extents of 2 GiB make 8 TiB
FLAT, SPARSE, ZERO = "FLAT", "SPARSE", "ZERO"
_TYPES = "monolithicFlat|vmfs|twoGbMaxExtentFlat|twoGbMaxExtentSparse"
_CREATE_TYPE = rf'(?ai:createtype\s*=\s*"({_TYPES})")'
_EXTENT = (
    r"(?a:(RW|RDONLY|NOACCESS)\s+(?P<sectors>\d{1,15})\s+"
    r'(?P<kind>FLAT|VMFS|SPARSE|ZERO)(\s+"(?P<name>[^"]+)"(\s+(?P<first>\d{1,15}))?)?)'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A part of the disk: its bytes, and where in which file they are.

    ``name`` is empty for zeroes; of a sparse one, ``offset`` is 0.
    """

    kind: str
    length: int
    name: str
    offset: int


def parsed(fd: int, *, path: Path) -> tuple[Extent, ...]:
    """Return the extents that an open descriptor names, in the disk's order.

    :raises ImageError: when it has a parent or an unknown line, or names a file in
        another directory.
    """
    text = _text(fd, path=path)
    if re.search(vmdk.PARENT, text):
        raise ImageError(path, f"it is a vmdk with a parent; {MERGE}")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    extents = []
    for line in lines:
        if match := re.fullmatch(_EXTENT, line):
            extents.append(_extent(match, path=path))
        elif line and not re.fullmatch(f"{vmdk.FIELD}|{_CREATE_TYPE}", line):
            reason = f"its vmdk descriptor has an unknown line: {line!r:.80}"
            raise ImageError(path, reason)
    if not 0 < len(extents) <= MOST:
        reason = f"its vmdk descriptor names {len(extents)} extents"
        raise ImageError(path, f"{reason}: it must name 1 to {MOST}")
    return tuple(extents)


def _extent(match: re.Match[str], *, path: Path) -> Extent:
    kind, name = match["kind"].replace("VMFS", FLAT), match["name"] or ""
    wrong = kind != ZERO and (not name or "/" in name or name in (".", ".."))
    if wrong or "\0" in name:
        reason = f"its vmdk descriptor names no file beside it: {match[0]!r:.80}"
        raise ImageError(path, reason)
    return Extent(
        kind=kind,
        length=int(match["sectors"]) * SECTOR,
        name="" if kind == ZERO else name,
        offset=int(match["first"] or 0) * SECTOR if kind == FLAT else 0,
    )


def _text(fd: int, *, path: Path) -> str:
    """Return the descriptor; names in it are as the filesystem has them."""
    if os.fstat(fd).st_size > MAX_SIZE:
        raise ImageError(path, "it is malformed: its vmdk descriptor's size is absurd")
    data = reading.read(fd, MAX_SIZE, offset=0)
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace").partition("\0")[0]
    return os.fsdecode(data.partition(b"\0")[0])


def check_file(fd: int, extents: list[Extent], *, path: Path) -> None:
    """Check that an open file holds exactly the extents that are to be in it.

    :raises ImageError: when it is shorter or longer, or another vmdk.
    """
    size = os.fstat(fd).st_size
    if extents[0].kind == SPARSE:
        found = vmdk.extent_size(fd, path=path)
        expected = extents[0].length if len(extents) == 1 else -1
    else:
        found, expected = size, max(one.offset + one.length for one in extents)
        if any(one.kind != FLAT for one in extents):
            expected = -1
    if found < expected:
        raise ImageError(path, f"it is cut short: {found} bytes, not {expected}")
    if found != expected:
        reason = f"it has {found} bytes, and its vmdk descriptor names others"
        raise ImageError(path, f"it contradicts its descriptor: {reason}")
