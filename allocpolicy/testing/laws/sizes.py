"""Laws about what a new disk takes, beside what its plan says."""

from __future__ import annotations

from allocpolicy import FillHoles, Observation, Reserve
from allocpolicy.testing import answers
from allocpolicy.testing.law import NotApplicable, at_its_edges, executed, pure, require
from allocpolicy.testing.making import new_disk
from allocpolicy.testing.subject import Place, Subject

_XFS_HINT = 1 << 20  # bytes, unwritten, that each extent may have beyond what was asked
_STAMP = 64 << 10  # bytes of the stamp's own block, and of extents' tree


@pure("reserved-is-not-written", "What is only reserved is not said to be written.")
def reserved_is_not_written(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        reserves = any(isinstance(one, Reserve) for one in plan.steps)
        fills = any(isinstance(one, FillHoles) for one in plan.steps)
        told = f"it reserves, and says that it is written ({case})"
        require(not (plan.written and reserves) or fills, told)


@executed(
    "reserved-is-taken",
    "A new disk has the storage that its plan reserves.",
    where=at_its_edges,
)
def reserved_is_taken(place: Place) -> None:
    report = new_disk(place)
    seen = _seen(report.observed)
    told = f"reserved_bytes is {report.reserved_bytes}, and it has {seen.actual_size}"
    require(seen.actual_size >= report.reserved_bytes, told)


@executed(
    "unwritten-is-counted",
    "What is reserved and not written is in the plan.",
    where=at_its_edges,
)
def unwritten_is_counted(place: Place) -> None:
    report = new_disk(place)
    seen = _seen(report.observed)
    if seen.extents is None:
        raise NotApplicable(f"{seen.filesystem} does not show what is unwritten")
    hinted = _XFS_HINT * seen.extents.count if seen.filesystem == "xfs" else 0
    unwritten = seen.extents.unwritten
    told = f"reserved_bytes is {report.reserved_bytes}, and {unwritten} are unwritten"
    require(unwritten <= report.reserved_bytes + hinted + _STAMP, told)


def _seen(observed: Observation | None) -> Observation:
    assert observed is not None  # it was no dry run
    return observed
