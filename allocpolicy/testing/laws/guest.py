"""Laws about what the guest reads: from a new disk, and from one that was changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from allocpolicy import (
    DiskFormat,
    Error,
    InvalidRequest,
    NotEnoughSpace,
    Unsupported,
    apply,
    resize,
)
from allocpolicy.record import dataclass
from allocpolicy.testing import as_guest
from allocpolicy.testing.base_images import BaseKind
from allocpolicy.testing.damages import Damage, damaged
from allocpolicy.testing.law import (
    Broken,
    NotApplicable,
    at_its_edges,
    executed,
    require,
)
from allocpolicy.testing.making import clear, made_by, new_disk
from allocpolicy.testing.subject import Place

_MORE = 3 << 19  # bytes beyond the base image, and no whole MiB
_SIZE = 5 << 19  # bytes of a disk without one
_LONG = 160 << 10  # bytes, not whole clusters
_BUNDLED = ("none", "space", "performance")
_TO_STORAGE = (Damage.DISCARD, Damage.SPARSE_COPY, Damage.REFLINK, Damage.TRUNCATE)
_BEFORE_GROWTH = (Damage.REFLINK, Damage.TRUNCATE, Damage.SNAPSHOT)


def _with_each_base_once(place: Place) -> bool:
    """Return whether a place has the default options, or a base in qcow2."""
    compared = place.base is not None and place.base.kind is BaseKind.QCOW2
    return place.has_defaults or compared


@executed(
    "guests-read-the-base",
    "The guest reads the base image, and then zeroes.",
    where=_with_each_base_once,
)
def guests_read_the_base(place: Place) -> None:
    base = place.base.content if place.base else b""
    size = _size(place)
    new_disk(place, virtual_size=size)
    _require_content(place, base + bytes(size - len(base)), "a new disk")


def _where_disks_change(place: Place) -> bool:
    """Return whether existing disks are changed: overlays, and disks without a base."""
    overlay = place.base is not None and place.base.kind is BaseKind.QCOW2
    return at_its_edges(place) and (overlay or place.base is None)


@executed(
    "content-survives-apply",
    "What a guest wrote is there after apply, whatever made the disk, or damaged it.",
    where=_where_disks_change,
)
def content_survives_apply(place: Place) -> None:
    overlay = place.base is not None
    damages = Damage if overlay else _TO_STORAGE
    _survives(place, _pasts(place, damages=damages), grow=0)


@executed(
    "content-survives-resize",
    "What a guest wrote is there in a larger disk, and zeroes behind it.",
    where=_where_disks_change,
)
def content_survives_resize(place: Place) -> None:
    _survives(place, _pasts(place, damages=_BEFORE_GROWTH), grow=_MORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """What made a disk (None: the strategy itself), and what happened to it."""

    origin: str | None = None
    damage: Damage | None = None

    def __str__(self) -> str:
        made = f"a disk of {self.origin or 'its own'}"
        return f"{made}, {self.damage}" if self.damage else made


def _pasts(place: Place, *, damages: Iterable[Damage]) -> Iterator[_Past]:
    """Yield many pasts where options are the defaults, otherwise one.

    The damages are tried where they differ most: on overlays, and on raw disks that are
    nothing else.
    """
    yield _Past(origin="none")
    if not place.has_defaults:
        return
    yield _Past()
    if (place.base is not None) is (place.format is DiskFormat.QCOW2):
        for origin in _BUNDLED[1:]:
            yield _Past(origin=origin)
        for damage in damages:
            yield _Past(damage=damage)
        yield _Past(origin="none", damage=Damage.REFLINK)
        yield _Past(origin="none", damage=Damage.HARD_LINK)


def _survives(place: Place, pasts: Iterator[_Past], *, grow: int) -> None:
    """Make disks, let guests write, damage and change them.

    :raises Broken: when a guest reads something else afterwards.
    :raises NotApplicable: when no disk could be changed.
    """
    tried = []
    for past in pasts:
        try:
            tried.append(_changed(place, past, grow=grow))
        finally:
            clear(place)
    if not any(tried):
        raise NotApplicable(f"it {'grows' if grow else 'changes'} no disk here")


def _changed(place: Place, past: _Past, *, grow: int) -> bool:
    """Return whether a disk with this past could be changed.

    :raises Broken: when the guest reads something else afterwards.
    """
    if not _made(place, past):
        return False
    before, file = as_guest.read(place.disk, place.format), place.disk.read_bytes()
    size = len(before) + grow
    change = place.change(virtual_size=size if grow else None)
    refused: Exception | None = None
    try:
        (resize if grow else apply)(change, policy=place.policy)
    except (InvalidRequest, Unsupported, NotEnoughSpace) as refusal:
        refused = refusal
        told = f"it refuses {past}, and has written to it: {refusal}"
        require(_same(file, place.disk.read_bytes()), told)
    except Error as error:
        _require_content(place, before, f"{past}, {error}")
        raise Broken(f"{past}: {error}") from error
    expected = before if refused else before + bytes(grow)
    _require_content(place, expected, str(past))
    require(len(str(refused).splitlines()) == 1, f"it refuses {past}: {refused}")
    return refused is None


def _made(place: Place, past: _Past) -> bool:
    """Make a disk with this past; return whether that is possible."""
    size = _size(place)
    if not made_by(past.origin, place, virtual_size=size):
        return False
    at = (0, size // 4, size // 2, size - _LONG)
    as_guest.write(place.disk, place.format, at=at, length=_LONG)
    if past.damage is not None:
        try:
            damaged(place.disk, past.damage, format=place.format)
        except NotApplicable:
            return False
    return True


def _size(place: Place) -> int:
    return place.base.virtual_size + _MORE if place.base else _SIZE


def _same(before: bytes, after: bytes) -> bool:
    """Return whether a file has the same bytes; reserved storage may follow."""
    return after.rstrip(b"\0") == before.rstrip(b"\0")


def _require_content(place: Place, expected: bytes, what: str) -> None:
    try:
        found = as_guest.read(place.disk, place.format)
    except OSError as error:
        raise Broken(f"{what}: the guest can't read it: {error}") from error
    size = f"{what}: the guest sees {len(found)} bytes, not {len(expected)}"
    require(len(found) == len(expected), size)
    if found != expected:
        pairs = enumerate(zip(found, expected, strict=True))
        at = next(number for number, (one, other) in pairs if one != other)
        block = found[at // 512 * 512 :][:512]
        told = "something else" if any(block) else "zeroes"
        raise Broken(f"{what}: the guest reads {told} at byte {at}")
