"""Laws about whether a disk keeps its promise, and who notices."""

from __future__ import annotations

from allocpolicy import Change, Judgement, Mode, apply, inspect
from allocpolicy.testing import damages
from allocpolicy.testing.damages import Damage
from allocpolicy.testing.law import (
    Broken,
    NotApplicable,
    at_its_edges,
    executed,
    require,
)
from allocpolicy.testing.making import new_disk
from allocpolicy.testing.subject import Place


@executed(
    "new-disks-meet",
    "A new disk keeps its promise, or the storage hides it.",
    where=at_its_edges,
)
def new_disks_meet(place: Place) -> None:
    verdict = new_disk(place).verdict
    assert verdict is not None
    told = f"a new disk is {verdict.judgement}: {verdict.reason}"
    require(verdict.judgement is not Judgement.DRIFTED, told)


@executed(
    "a-second-apply-does-nothing",
    "A disk that was just made is left alone.",
    where=at_its_edges,
)
def a_second_apply_does_nothing(place: Place) -> None:
    new_disk(place)
    report = apply(Change(disk=place.disk), policy=place.policy)
    told = f"apply to a new disk: {'; '.join(report.steps)}"
    require(report.mode is Mode.NOTHING, told)


@executed(
    "verify-notices-discards",
    "A disk that lost reserved storage has drifted.",
    where=at_its_edges,
)
def verify_notices_discards(place: Place) -> None:
    _notices(place, Damage.DISCARD)


@executed(
    "verify-notices-sparse-copies",
    "A sparse copy of a disk has drifted.",
    where=at_its_edges,
)
def verify_notices_sparse_copies(place: Place) -> None:
    _notices(place, Damage.SPARSE)


@executed(
    "verify-notices-shared-blocks",
    "A disk that shares its blocks has drifted.",
    where=at_its_edges,
)
def verify_notices_shared_blocks(place: Place) -> None:
    _notices(place, Damage.REFLINK)


def _notices(place: Place, damage: Damage) -> None:
    """Make a disk that meets, damage it, and have it inspected.

    :raises Broken: when it still meets.
    """
    report = new_disk(place)
    assert report.verdict is not None
    if report.verdict.judgement is not Judgement.MEETS:
        raise NotApplicable(f"a new disk is {report.verdict.judgement} here")
    if not report.reserved_bytes:
        raise NotApplicable("it reserves nothing that could be lost")
    before = report.observed
    assert before is not None
    if not damages.do(damage, place.disk):
        raise NotApplicable(f"{place.filesystem} has no such damage")
    found = inspect(place.disk, policy=place.policy)
    after, verdict = found.observed, found.verdict
    shared = after.extents.shared if after.extents else 0
    lost = before.actual_size - after.actual_size
    if lost <= 0 and not shared:
        raise NotApplicable("the damage takes nothing from such a disk")
    if verdict is not None and verdict.judgement is Judgement.MEETS:
        said = f"{lost} bytes are lost" if lost > 0 else f"{shared} bytes are shared"
        raise Broken(f"{damage}: {said}, and it meets: {verdict.reason}")
