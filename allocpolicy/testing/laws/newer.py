"""Laws about what a later version of the contract, or a user, may bring."""

from __future__ import annotations

from collections.abc import Iterator

from allocpolicy import (
    Allocation,
    DiskRole,
    Error,
    MappingState,
    Observation,
    Operation,
    PlanError,
    Unsupported,
    Use,
)
from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.record import replace
from allocpolicy.registry import call
from allocpolicy.testing import answers, cases
from allocpolicy.testing.cases import Case
from allocpolicy.testing.law import Broken, changes_existing, one_line, pure, require
from allocpolicy.testing.records import NOWHERE, facts_on
from allocpolicy.testing.subject import Subject
from allocpolicy.testing.unknown import unknown_member

LABELS = (
    {"tenant": "acme", "project": "3f2c"},
    {"": ""},
    {"tenant": "ü \u202e\n\0 ../.." * 20, "TENANT": "{0} %s"},
)
_EVERY = 19  # of the cases: all kinds of requests are among them


@pure(
    "newer-requests-are-answered",
    "A disk role or an operation that it doesn't know is planned, or refused.",
)
def newer_requests_are_answered(subject: Subject) -> None:
    for case in _some(subject):
        for newer in (
            replace(case.request, disk_role=unknown_member(DiskRole)),
            replace(case.request, operation=unknown_member(Operation)),
        ):
            _answers(subject, replace(case, request=newer))


@pure(
    "newer-disks-are-judged",
    "A disk in a state that it doesn't know is judged and attached all the same.",
)
def newer_disks_are_judged(subject: Subject) -> None:
    for options in subject.option_sets:
        for disk in _newer_disks():
            try:
                call.verify(subject.loaded, options=options, observation=disk)
                call.wanted_attachment(
                    subject.loaded, options=options, observation=disk
                )
            except Error as error:
                raise Broken(
                    f"{error} ({dict(options)}, {cases.told(disk)})"
                ) from error


@pure(
    "newer-disks-are-changed-or-refused",
    "A disk in a state that it doesn't know is amended, or refused.",
)
def newer_disks_are_changed_or_refused(subject: Subject) -> None:
    changes_existing(subject)
    for options in subject.option_sets:
        for disk in _newer_disks():
            facts = facts_on("ext4", current=disk)
            for request in cases.changes(disk, destination=NOWHERE / "disk"):
                case = Case(options=options, request=request, facts=facts, current=disk)
                _answers(subject, case)


@pure("labels-may-be-anything", "A user's labels are any text: planned, or refused.")
def labels_may_be_anything(subject: Subject) -> None:
    for case in _some(subject):
        for labels in LABELS:
            labelled = replace(case.request, labels=ReadOnly(labels))
            _answers(subject, replace(case, request=labelled))


@pure("trials-are-answered", "A trial is planned as any disk is, or refused.")
def trials_are_answered(subject: Subject) -> None:
    for case in _some(subject):
        _answers(subject, replace(case, request=replace(case.request, trial=True)))


def _some(subject: Subject) -> Iterator[Case]:
    return (answer.case for answer in answers.of(subject)[::_EVERY])


def _newer_disks() -> Iterator[Observation]:
    """Yield disks in states of a later version, one at a time."""
    for disk in cases.disks():
        yield replace(disk, allocation=unknown_member(Allocation))
        yield replace(disk, mapping=unknown_member(MappingState))
        yield replace(disk, in_use=unknown_member(Use))


def _answers(subject: Subject, case: Case) -> None:
    """Go on if the strategy plans, or refuses in a line.

    :raises Broken: telling what it does instead.
    """
    try:
        call.exclusive(subject.loaded, request=case.request, options=case.options)
        answers.ask(subject.loaded, answers.observed(subject.loaded, case))
    except (PlanError, Unsupported) as refusal:
        require(one_line(str(refusal)), f"it refuses with {str(refusal)!r} ({case})")
    except Error as error:
        raise Broken(f"{error} ({case})") from error
