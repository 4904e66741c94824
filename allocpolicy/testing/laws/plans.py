"""Laws about plans, for new disks and for those that exist; none is carried out."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

from allocpolicy import (
    CopyBase,
    FillHoles,
    GrowQcow2,
    Judgement,
    Mode,
    Operation,
    Plan,
    Reserve,
    Sharing,
    Step,
    StrategyFailed,
)
from allocpolicy.registry import call
from allocpolicy.testing import answers, watch
from allocpolicy.testing.cases import EXISTING_SIZE, GROWN, Case
from allocpolicy.testing.law import NotApplicable, one_line, pure, require
from allocpolicy.testing.subject import Subject

_ENTRIES_PER_BYTE = 8 << 10  # an L2 entry of 8 bytes for each cluster of 64 KiB
_EVERY = 13  # of the cases that are asked slowly; prime, so that all kinds are


@pure(
    "plans-keep-the-contract",
    "Every plan is one that `check_plan` accepts, and no hook raises but a refusal.",
)
def plans_keep_the_contract(subject: Subject) -> None:
    for answer in answers.of(subject):
        told = f"{answer.given} ({answer.case})"
        require(not isinstance(answer.given, StrategyFailed), told)


@pure("serves-new-disks", "With its defaults it serves some new disk.")
def serves_new_disks(subject: Subject) -> None:
    _serves(subject, Operation.PROVISION)


@pure("serves-disks-that-drifted", "It brings some existing disk to its policy.")
def serves_disks_that_drifted(subject: Subject) -> None:
    _changes_existing(subject)
    _serves(subject, Operation.APPLY)


@pure("serves-disks-that-grow", "It grows some existing disk.")
def serves_disks_that_grow(subject: Subject) -> None:
    _changes_existing(subject)
    _serves(subject, Operation.RESIZE)


@pure("refusals-name-the-strategy", "A refusal is one line that names the strategy.")
def refusals_name_the_strategy(subject: Subject) -> None:
    for answer in answers.of(subject):
        if not answer.refused:
            continue
        said = str(answer.given)
        require(one_line(said), f"it refuses with {said!r}")
        require(subject.name in said, f"it refuses with {said!r}, without its name")
        kept = str(pickle.loads(pickle.dumps(answer.given)))  # noqa: S301  (our own)
        require(kept == said, f"{said!r} is {kept!r} when it was pickled")


@pure("plans-are-steady", "Two instances plan alike: a dry run shows what a run does.")
def plans_are_steady(subject: Subject) -> None:
    for answer in answers.of(subject):
        told = f"{answer.given}, then {answer.again} ({answer.case})"
        require(answer.steady, told)


@pure("plans-do-no-io", "Planning opens, lists and starts nothing: `observe` does.")
def plans_do_no_io(subject: Subject) -> None:
    for answer in answers.of(subject):
        require(not answer.io, f"{answer.io[:1]} ({answer.case})")


@pure(
    "plans-ask-nothing-outside",
    "Planning asks no clock, no chance, no environment and no process.",
)
def plans_ask_nothing_outside(subject: Subject) -> None:
    for answer in answers.of(subject)[::_EVERY]:
        with watch.outside() as seen:
            answers.answer(subject.loaded, answer.case)
        require(not seen, f"it asks {seen[:1]} ({answer.case})")


@pure("plans-change-no-input", "Request, facts and options are what they were.")
def plans_change_no_input(subject: Subject) -> None:
    for answer in answers.of(subject):
        require(not answer.changed, f"its input is changed ({answer.case})")


@pure("plans-are-values", "A plan can be kept, compared and sent elsewhere: pickled.")
def plans_are_values(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        kept = pickle.loads(pickle.dumps(plan))  # noqa: S301  (our own)
        require(kept == plan, f"{plan} is {kept} when it was pickled ({case})")


@pure("steps-describe-themselves", "Each step says in one line what it does.")
def steps_describe_themselves(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        lines = call.describe(subject.loaded, plan=plan)
        for step, said in zip(plan.steps, lines, strict=True):
            told = f"{type(step).__name__}.describe() returned {said!r} ({case})"
            require(one_line(said) and said == step.describe(), told)


@pure("promised-covers-the-disk", "A full disk takes at least its virtual size.")
def promised_covers_the_disk(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        told = f"promised_bytes is {plan.promised_bytes} ({case})"
        require(plan.promised_bytes >= case.request.virtual_size, told)


@pure("copies-are-counted", "Whatever isn't shared needs room, known before the copy.")
def copies_are_counted(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        base = case.facts.base
        if case.current is None and base and not case.facts.shares_base:
            copies = any(isinstance(step, CopyBase) for step in plan.steps)
            told = f"peak_bytes is {plan.peak_bytes}, less than the copy ({case})"
            require(not copies or plan.peak_bytes >= base.data_bytes, told)


@pure("reservations-are-counted", "In place, what a disk lacks is counted beforehand.")
def reservations_are_counted(subject: Subject) -> None:
    _changes_existing(subject)
    for case, plan in answers.plans(subject):
        lengths = [step.length for step in plan.steps if isinstance(step, Reserve)]
        if case.current is not None and plan.mode is Mode.IN_PLACE and lengths:
            missing = max(lengths) - case.current.actual_size
            told = f"reserved_bytes is {plan.reserved_bytes}, not {missing} ({case})"
            require(plan.reserved_bytes >= missing, told)


@pure("growth-counts-its-tables", "A qcow2 that grows mapped needs room for tables.")
def growth_counts_its_tables(subject: Subject) -> None:
    _changes_existing(subject)
    for case, plan in answers.plans(subject):
        grown = [step for step in plan.steps if isinstance(step, GrowQcow2)]
        needed = (GROWN - EXISTING_SIZE) // _ENTRIES_PER_BYTE
        told = f"peak_bytes is {plan.peak_bytes}, not {needed} ({case})"
        require(
            not any(step.mapped for step in grown) or plan.peak_bytes >= needed, told
        )


@pure("own-storage-is-not-shared", "What is reserved is never another file's blocks.")
def own_storage_is_not_shared(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        if any(isinstance(step, Reserve | FillHoles) for step in plan.steps):
            for step in plan.steps:
                shares = isinstance(step, CopyBase) and step.sharing != Sharing.NEVER
                require(not shares, f"it reserves, and shares the base ({case})")


@pure("copies-are-not-made-up", "Only a plan that copies gives reasons for a copy.")
def copies_are_not_made_up(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        copies = any(map(_copies, plan.steps))
        told = f"the reason is {plan.reason!r}, and nothing is copied ({case})"
        require("copied" not in plan.reason or copies, told)


@pure("what-meets-is-not-rewritten", "A disk that keeps its promise is left in place.")
def what_meets_is_not_rewritten(subject: Subject) -> None:
    for case, plan in _of_existing(subject):
        if plan.mode is Mode.STAGED and not case.request.allow_thin:
            assert case.current is not None
            verdict = call.verify(
                subject.loaded, options=case.options, observation=case.current
            )
            told = f"it meets ({verdict.reason}), and is rewritten ({case})"
            require(verdict.judgement is not Judgement.MEETS, told)


@pure("growing-is-in-place", "A disk grows where it is, or apply has to come first.")
def growing_is_in_place(subject: Subject) -> None:
    for case, plan in _of_existing(subject):
        if case.request.operation is Operation.RESIZE:
            require(plan.mode is Mode.IN_PLACE, f"the mode is {plan.mode} ({case})")


def _copies(step: Step) -> bool:
    overlay = getattr(step, "backing", None) is not None
    return getattr(step, "carries", None) is not None and not overlay


def _serves(subject: Subject, operation: Operation) -> None:
    """Go on if something is served with the default options.

    :raises Broken: telling the first refusal.
    """
    asked = [
        answer
        for answer in answers.of(subject)
        if answer.case.options == subject.option_sets[0]
        and answer.case.request.operation is operation
    ]
    served = any(isinstance(answer.given, Plan) for answer in asked)
    require(served, f"it refuses everything: {asked[0].given} ({asked[0].case})")


def _of_existing(subject: Subject) -> Iterator[tuple[Case, Plan]]:
    _changes_existing(subject)
    return (
        (case, plan)
        for case, plan in answers.plans(subject)
        if case.current is not None
    )


def _changes_existing(subject: Subject) -> None:
    """Go on if the strategy changes existing disks.

    :raises NotApplicable: when it has no ``amend``.
    """
    if not subject.changes_existing:
        raise NotApplicable("it has no amend(): it does not change existing disks")
