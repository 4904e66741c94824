"""Laws about what the guest reads: from a new disk, and from one that was changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from allocpolicy import (
    Change,
    Error,
    NotEnoughSpace,
    PlanError,
    Unsupported,
    apply,
    provision,
    resize,
)
from allocpolicy.testing import as_guest, damages
from allocpolicy.testing.damages import Damage
from allocpolicy.testing.law import (
    Broken,
    NotApplicable,
    executed,
    require,
)
from allocpolicy.testing.making import new_disk
from allocpolicy.testing.subject import SIZE, Place

_MORE = 3 << 19  # bytes beyond the base image, and no whole MiB
_BLOCK = 4096
_ORIGINS = ("none", "space", "performance")


def _with_defaults(place: Place) -> bool:
    """Return whether changes of disks, which take long, are tried in a place."""
    return place.has_defaults


@executed("guests-read-the-base", "The guest reads the base image, and then zeroes.")
def guests_read_the_base(place: Place) -> None:
    base = place.base.content if place.base else b""
    size = len(base) + _MORE
    new_disk(place, virtual_size=size)
    _require_content(place, base + bytes(size - len(base)), "a new disk")


@executed(
    "content-survives-apply",
    "What a guest wrote is there after apply, whatever made the disk, or damaged it.",
    where=_with_defaults,
)
def content_survives_apply(place: Place) -> None:
    changed = [_changed(place, origin, damage, grow=0) for origin, damage in _pasts()]
    if not any(changed):
        raise NotApplicable("it changes no disk here")


@executed(
    "content-survives-resize",
    "What a guest wrote is there in a larger disk.",
    where=_with_defaults,
)
def content_survives_resize(place: Place) -> None:
    changed = [
        _changed(place, origin, damage, grow=_MORE) for origin, damage in _pasts()
    ]
    if not any(changed):
        raise NotApplicable("it grows no disk here")


def _pasts() -> Iterator[tuple[str | None, Damage | None]]:
    """Yield what made a disk (None: the strategy itself) and what happened to it."""
    for origin in _ORIGINS:
        yield origin, None
    for damage in (None, *Damage):
        yield None, damage


def _changed(
    place: Place, origin: str | None, damage: Damage | None, *, grow: int
) -> bool:
    """Make a disk, let its guest write, damage and change it; return if it could be.

    :raises Broken: when the guest reads something else afterwards.
    """
    if not _made(place, origin):
        return False
    _write(place)
    if damage is not None and not damages.do(damage, place.disk):
        return False
    before = as_guest.read(place.disk, place.format)
    change = Change(
        disk=place.disk,
        format=place.format,
        extra_specs=place.subject.extra_specs(place.options),
        virtual_size=len(before) + grow if grow else None,
    )
    told = f"a disk of {origin or 'its own'}{f': {damage}' if damage else ''}"
    refused = None
    try:
        (resize if grow else apply)(change, policy=place.policy)
    except (PlanError, Unsupported, NotEnoughSpace) as refusal:
        refused = refusal
    except Error as error:
        _require_content(place, before, f"{told}, {error}")
        raise Broken(f"{told}: {error}") from error
    expected = before if refused else before + bytes(grow)
    _require_content(place, expected, told)
    return refused is None


def _made(place: Place, origin: str | None) -> bool:
    for one in place.directory.iterdir():
        one.unlink()
    order = place.order()
    if origin is not None:
        order = replace(order, extra_specs={"allocpolicy:strategy": origin})
    try:
        provision(order, policy=place.policy)
    except (PlanError, Unsupported):
        return False
    return True


def _write(place: Place) -> None:
    """Have the guest write: at the start, in the middle, the last block."""
    size = place.base.virtual_size if place.base else SIZE
    at = (0, size // 2 - _BLOCK, size - _BLOCK)
    as_guest.write(place.disk, place.format, at=at, length=_BLOCK)


def _require_content(place: Place, expected: bytes, what: str) -> None:
    found = as_guest.read(place.disk, place.format)
    size = f"{what}: the guest sees {len(found)} bytes, not {len(expected)}"
    require(len(found) == len(expected), size)
    if found != expected:
        at = next(
            i
            for i, pair in enumerate(zip(found, expected, strict=True))
            if pair[0] != pair[1]
        )
        block = at // 512 * 512
        told = "zeroes" if not any(found[block : block + 512]) else "something else"
        raise Broken(f"{what}: the guest reads {told} at byte {at}")
