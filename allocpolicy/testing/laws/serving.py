"""Laws about whether anything is tried at all: what is refused everywhere is not."""

from __future__ import annotations

from allocpolicy import (
    InvalidRequest,
    NotEnoughSpace,
    Unsupported,
    apply,
    provision,
    resize,
)
from allocpolicy.record import replace
from allocpolicy.testing.law import Broken, changes_existing, executed
from allocpolicy.testing.subject import Place

_REFUSED = (InvalidRequest, Unsupported, NotEnoughSpace)
_MORE = 1 << 20  # bytes by which a disk grows


def _with_defaults(place: Place) -> bool:
    return place.has_defaults


@executed(
    "serves-disks-here",
    "In some directory that is given it makes a disk.",
    where=_with_defaults,
    somewhere=True,
)
def serves_disks_here(place: Place) -> None:
    try:
        provision(place.order(), policy=place.policy)
    except _REFUSED as refusal:
        raise Broken(f"no law can make a disk here: {refusal}") from refusal


@executed(
    "changes-disks-here",
    "In some directory that is given it changes a disk.",
    where=_with_defaults,
    somewhere=True,
)
def changes_disks_here(place: Place) -> None:
    changes_existing(place.subject)
    order = place.order()
    try:
        of_none = replace(order, extra_specs={"allocpolicy:strategy": "none"})
        provision(of_none, policy=place.policy)
        apply(place.change(), policy=place.policy)
    except _REFUSED:
        place.disk.unlink(missing_ok=True)
    else:
        return
    try:
        provision(order, policy=place.policy)
        resize(place.change(virtual_size=_MORE, added=True), policy=place.policy)
    except _REFUSED as refusal:
        raise Broken(f"no law can change a disk here: {refusal}") from refusal
