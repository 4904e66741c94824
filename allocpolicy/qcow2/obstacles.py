"""What in a qcow2 image may prevent an operation on it, each thing listed once.

Each operation decides which obstacles prevent it, and what to do about them: here for
base images and rewrites, in `growth` for growing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from allocpolicy import wording
from allocpolicy.errors import refuse
from allocpolicy.qcow2.header import EncryptionMethod, Header
from allocpolicy.record import dataclass

REPAIR = "repair it with qemu-img check -r all first"
_CONVERT = "with qemu-img convert first"


class Kind(enum.Enum):
    """The obstacles, most serious first."""

    CORRUPT = enum.auto()
    DIRTY = enum.auto()
    EXTERNAL_DATA = enum.auto()
    ENCRYPTION = enum.auto()
    SNAPSHOTS = enum.auto()
    BITMAPS = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """An obstacle: ``name`` is for lists, ``statement`` is a clause."""

    kind: Kind
    name: str
    statement: str


_BASE_REMEDIES: Mapping[Kind, str] = {  # bitmaps are harmless there
    Kind.CORRUPT: REPAIR,
    Kind.DIRTY: REPAIR,
    Kind.EXTERNAL_DATA: f"bring it in {_CONVERT}",
    Kind.ENCRYPTION: f"decrypt it {_CONVERT}",
    Kind.SNAPSHOTS: "delete them with qemu-img snapshot -d first",
}
_REWRITE_REMEDIES: Mapping[Kind, str] = {  # the others have none
    Kind.CORRUPT: "qemu-img check -r all",
    Kind.DIRTY: "qemu-img check -r all",
    Kind.SNAPSHOTS: "qemu-img snapshot -d",
    Kind.BITMAPS: "qemu-img bitmap --remove",
}


def found(header: Header, *, snapshots: Sequence[str] = ()) -> Iterator[Obstacle]:
    """Yield an image's obstacles, most serious first.

    :param snapshots: the names of the first internal snapshots, if known.
    """
    for kind, present, name, statement in _all(header, snapshots):
        if present:
            yield Obstacle(kind=kind, name=name, statement=statement)


def snapshots_in_words(count: int, names: Sequence[str]) -> str:
    """Return ``internal snapshot x`` or ``3 internal snapshots (x, y, …)``, or nothing.

    :param names: of the first ones, if known.
    """
    if not count:
        return ""
    named = ", ".join(map(wording.bounded, names))
    if count == 1:
        return f"internal snapshot {named}" if names else "1 internal snapshot"
    more = ", …" if 0 < len(names) < count else ""
    return f"{count} internal snapshots" + (f" ({named}{more})" if names else "")


def _all(header: Header, names: Sequence[str]) -> Iterator[tuple[Kind, bool, str, str]]:
    corrupt = "the corrupt bit", "QEMU marked it as corrupt"
    yield Kind.CORRUPT, header.corrupt, *corrupt
    dirty = "the dirty bit", "it was not closed cleanly"
    yield Kind.DIRTY, header.dirty, *dirty
    external = "an external data file", "its data is in an external data file"
    yield Kind.EXTERNAL_DATA, header.has_external_data_file, *external
    method = header.encryption
    encryption = f"encryption ({method.name})", f"it is encrypted ({method.name})"
    yield Kind.ENCRYPTION, method is not EncryptionMethod.NONE, *encryption
    count = header.snapshots
    snapshots = snapshots_in_words(count, names)
    yield Kind.SNAPSHOTS, count > 0, snapshots, f"it has {snapshots}"
    bitmaps = "persistent bitmaps"
    yield Kind.BITMAPS, header.has_bitmaps, bitmaps, f"it has {bitmaps}"


def faults(
    header: Header, *, remedies: Mapping[Kind, str]
) -> Iterator[tuple[bool, str]]:
    """Yield the obstacles with a remedy, each with its remedy, for `header.refuse`."""
    for obstacle in found(header):
        if remedy := remedies.get(obstacle.kind):
            yield True, f"{obstacle.statement}; {remedy}"


def check_base(header: Header, *, path: Path) -> None:
    """Check that an image can be a base image: it has all the guest's data, only that.

    `read_header` has already refused unknown incompatible features.

    :raises ImageError: naming the most serious obstacle, and what to do about it.
    """
    named = header.backing_file
    backed = f"it has a backing file ({named!r}); flatten it {_CONVERT}"
    refuse([(named is not None, backed)], path=path)
    refuse(faults(header, remedies=_BASE_REMEDIES), path=path)


def hindrances(header: Header, *, snapshots: Sequence[str] = ()) -> Iterator[str]:
    """Yield what prevents rewriting an image, each with its remedy.

    A rewrite would lose it (bitmaps, snapshots), miss it (external data), destroy it
    (LUKS ties data to host offsets), or trust what QEMU doesn't (corrupt, dirty).

    :param snapshots: the names of the first internal snapshots, if known.
    """
    for obstacle in found(header, snapshots=snapshots):
        remedy = _REWRITE_REMEDIES.get(obstacle.kind)
        yield f"{obstacle.name} ({remedy})" if remedy else obstacle.name
