"""Laws about whether a disk keeps its promise, and who notices."""

from __future__ import annotations

from collections.abc import Iterator

from allocpolicy import (
    Allocation,
    Change,
    Judgement,
    MappingState,
    Mode,
    Observation,
    Report,
    Verdict,
    apply,
    inspect,
)
from allocpolicy.record import replace
from allocpolicy.testing import as_guest
from allocpolicy.testing.damages import Damage, damaged
from allocpolicy.testing.law import (
    ExecutedLaw,
    NotApplicable,
    at_its_edges,
    executed,
    plainly,
    require,
)
from allocpolicy.testing.making import clear, new_disk
from allocpolicy.testing.subject import Place

_ORDER = (Allocation.THIN, Allocation.RESERVED, Allocation.WRITTEN)
_SIZE = 8 << 20  # bytes of a disk to be damaged
_USED = 1 << 20  # bytes of it to which its guest wrote


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
    later = inspect(place.disk, policy=place.policy).verdict
    judgement = later.judgement if later else verdict.judgement  # it has no stamp
    told = f"a new disk is {verdict.judgement}, and then {judgement}"
    require(judgement is verdict.judgement, told)


@executed(
    "a-second-apply-does-nothing",
    "A disk that was just made is left alone.",
    where=at_its_edges,
)
def a_second_apply_does_nothing(place: Place) -> None:
    made = new_disk(place)
    hidden = made.verdict and made.verdict.judgement is Judgement.UNVERIFIABLE
    if hidden and not place.subject.changes_existing:
        raise NotApplicable("it does not change existing disks, and can't verify them")
    before, content = place.disk.stat(), place.disk.read_bytes()
    report = apply(Change(disk=place.disk), policy=place.policy)
    told = f"apply to a new disk: {'; '.join(report.steps)}"
    require(report.mode is Mode.NOTHING, told)
    after = place.disk.stat()
    for what in ("st_ino", "st_size", "st_blocks", "st_mtime_ns"):
        changed = f"apply to a new disk changes its {what}"
        require(getattr(before, what) == getattr(after, what), changed)
    require(content == place.disk.read_bytes(), "apply to a new disk writes to it")


def _notices(name: str, damage: Damage, says: str) -> ExecutedLaw:
    @executed(f"verify-notices-{name}", says, where=plainly)
    def law(place: Place) -> None:
        _require_noticed(place, damage)

    return law


discards = _notices(
    "discards", Damage.DISCARD, "A disk whose guest discarded what it has has drifted."
)
zeroes = _notices(
    "zeroes",
    Damage.ZEROES,
    "A disk in which QEMU unmapped its guest's zeroes has drifted.",
)
holes = _notices(
    "holes", Damage.HOLES, "A disk that lost its zeroes to --dig-holes has drifted."
)
sparse_copies = _notices(
    "sparse-copies", Damage.SPARSE_COPY, "A sparse copy of a disk has drifted."
)
full_copies = _notices(
    "moving-blocks",
    Damage.FULL_COPY,
    "A disk whose blocks move when they are overwritten has drifted.",
)
shared_blocks = _notices(
    "shared-blocks", Damage.REFLINK, "A disk that shares its blocks has drifted."
)
truncation = _notices(
    "truncation", Damage.TRUNCATE, "A disk whose reserved end was cut off has drifted."
)
conversion = _notices(
    "conversion",
    Damage.CONVERSION,
    "A disk that qemu-img convert made anew has drifted.",
)
growth = _notices("growth", Damage.GROWTH, "A disk that others grew has drifted.")
snapshots = _notices(
    "snapshots", Damage.SNAPSHOT, "A disk with snapshots inside has drifted."
)


def _require_noticed(place: Place, damage: Damage) -> None:
    """Damage disks of the strategy; some must lose something, and verify say so.

    :raises Broken: when one that lost something meets, or when none had anything to
        lose: an author whose strategy promises nothing says so by waiving the law.
    :raises NotApplicable: when the damage can't happen here, or its effect is hidden.
    """
    noticed, kept, impossible = 0, 0, ""
    if damage is Damage.FULL_COPY and place.filesystem != "btrfs":
        raise NotApplicable(f"no block moves on {place.filesystem} when overwritten")
    for one in _variants(place):
        try:
            lost, verdict = _suffered(one, damage)
        except NotApplicable as error:
            impossible = impossible or str(error)
            continue
        finally:
            clear(one)
        meets = verdict.judgement is Judgement.MEETS
        told = f"{one}: {damage}; {lost}, and it meets: {verdict.reason}"
        require(not (lost and meets), told)
        noticed, kept = noticed + (not meets), kept + meets
    if not noticed and not kept:
        raise NotApplicable(impossible)
    nothing = f"every disk of it meets when {damage}"
    require(noticed, f"{nothing}; waive this if it promises nothing of the kind")


def _variants(place: Place) -> Iterator[Place]:
    """Yield the place with the default options, and with a few others."""
    for options in place.subject.few_option_sets:
        yield replace(place, options=options)


def _suffered(place: Place, damage: Damage) -> tuple[str, Verdict]:
    """Make a disk that meets, and damage it; return what it lost, and its verdict.

    Its guest has written zeroes to a part of it, which some damages take away.

    :raises NotApplicable: when that is not possible, or can't be seen.
    """
    report = new_disk(place, virtual_size=_SIZE)
    as_guest.work(place.disk, place.format, f"write -P 0 0 {_USED}")
    used = inspect(place.disk, policy=place.policy)
    if used.verdict is None or used.verdict.judgement is not Judgement.MEETS:
        told = used.verdict.judgement if used.verdict else "without a stamp"
        raise NotApplicable(f"a new disk is {told} here")
    damaged(place.disk, damage, format=place.format)
    found = inspect(place.disk, policy=place.policy)
    assert found.verdict is not None  # a damage keeps the stamp
    return _lost(report, used.observed, found.observed), found.verdict


def _lost(report: Report, before: Observation, after: Observation) -> str:
    """Return what a disk lost of what its plan reserved, or of its mapping."""
    if before.mapping is MappingState.FULL is not after.mapping:
        return f"its mapping is {after.mapping}"
    reserved = report.reserved_bytes
    if not reserved:
        return ""
    held, holds = _own(before), _own(after)
    if holds < min(reserved, held):
        return f"of {reserved} reserved bytes {holds} are left"
    if before.overwrites_in_place and not after.overwrites_in_place:
        return "its blocks move when they are overwritten"
    if reserved >= before.full_size and _rank(after) < _rank(before):
        return f"its allocation is {after.allocation}, no longer {before.allocation}"
    return ""


def _rank(observed: Observation) -> int:
    """Return a number that is lower when less of the storage is there; 3: unknown."""
    known = observed.allocation in _ORDER
    return _ORDER.index(observed.allocation) if known else len(_ORDER)


def _own(observed: Observation) -> int:
    """Return the bytes of storage that a disk shares with nothing."""
    shared = observed.extents.shared if observed.extents else 0
    return observed.actual_size - shared
