"""Laws about plans, for new disks and for those that exist; none is carried out."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

from allocpolicy import (
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Error,
    Judgement,
    Mode,
    Operation,
    Plan,
    PlanError,
    Step,
    StrategyFailed,
    Unsupported,
    record_class,
)
from allocpolicy.registry import call, hooks, installed
from allocpolicy.testing import answers, elsewhere, watch
from allocpolicy.testing.cases import Case
from allocpolicy.testing.law import (
    NotApplicable,
    changes_existing,
    one_line,
    pure,
    require,
)
from allocpolicy.testing.subject import Subject

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
    changes_existing(subject)
    _serves(subject, Operation.APPLY)


@pure("serves-disks-that-grow", "It grows some existing disk.")
def serves_disks_that_grow(subject: Subject) -> None:
    changes_existing(subject)
    _serves(subject, Operation.RESIZE)


@pure("refusals-name-the-strategy", "A refusal is one line that names the strategy.")
def refusals_name_the_strategy(subject: Subject) -> None:
    refusals = [answer for answer in answers.of(subject) if answer.refused]
    for number, answer in enumerate(refusals):
        said = str(answer.given)
        require(one_line(said), f"it refuses with {said!r}")
        if not number % _EVERY:
            _refuses_in_one_line(subject, answer.case)
        require(subject.name in said, f"it refuses with {said!r}, without its name")
        kept = str(pickle.loads(pickle.dumps(answer.given)))  # noqa: S301  (our own)
        require(kept == said, f"{said!r} is {kept!r} when it was pickled")


@pure(
    "plans-are-steady",
    "Another instance, in another process too, plans alike: as a dry run showed.",
)
def plans_are_steady(subject: Subject) -> None:
    for answer in answers.of(subject):
        told = f"{_unlike(answer.given, answer.again)} ({answer.case})"
        require(answer.steady, f"two instances differ: {told}")
    some = answers.of(subject)[::_EVERY]
    others = elsewhere.ask(subject, [answer.case for answer in some])
    for answer, other in zip(some, others, strict=True):
        told = f"{_unlike(answer.given, other)} ({answer.case})"
        alike = answers.alike(answer.given, other)
        require(alike, f"in another process it differs: {told}")


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


@pure("locks-are-steady", "The lock's name depends on request and options alone.")
def locks_are_steady(subject: Subject) -> None:
    if not hooks.is_own(subject.strategy, "exclusive"):
        raise NotApplicable("it has no exclusive(): it takes no lock")
    other = installed.load(subject.name)
    for answer in answers.of(subject)[::_EVERY]:
        request, options = answer.case.request, answer.case.options
        with watch.io() as opened, watch.outside() as seen:
            names = [
                call.exclusive(loaded, request=request, options=options)
                for loaded in (subject.loaded, other)
            ]
        require(names[0] == names[1], f"it is {names} ({answer.case})")
        require(not opened and not seen, f"it asks {[*opened, *seen][:1]}")


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


@pure(
    "new-disks-are-as-asked",
    "A new disk has the format and the size of the request, and a copy goes where its"
    " data is.",
)
def new_disks_are_as_asked(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        if case.current is not None:
            continue
        for step in plan.steps:
            if isinstance(step, CreateRaw | CreateQcow2):
                qcow2 = isinstance(step, CreateQcow2)
                right = qcow2 is (case.request.format is DiskFormat.QCOW2)
                told = f"{step.describe()} ({case})"
                require(right and step.virtual_size == case.request.virtual_size, told)
                _require_copied_into(step, plan, case)


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


def _unlike(one: Plan | Error, other: Plan | Error) -> str:
    """Return what differs in two answers: fields of plans, or all of them."""
    if not (isinstance(one, Plan) and isinstance(other, Plan)):
        return f"{one}, then {other}"
    return ", ".join(
        f"{name} is {getattr(one, name)!r}, then {getattr(other, name)!r}"
        for name in record_class.names(Plan)
        if getattr(one, name) != getattr(other, name)
    )


def _refuses_in_one_line(subject: Subject, case: Case) -> None:
    """Look at what the strategy itself says: the framework makes one line of it."""
    hook = "plan" if case.current is None else "amend"
    try:
        answers.hook(
            subject.loaded,
            hook,
            request=case.request,
            options=case.options,
            facts=case.facts,
            current=case.current,
        )
    except (PlanError, Unsupported) as refusal:
        require(one_line(refusal.reason), f"it refuses with {refusal.reason!r}")


def _require_copied_into(
    create: CreateQcow2 | CreateRaw, plan: Plan, case: Case
) -> None:
    """Go on if the base image is copied to where the new disk's data begins."""
    for step in plan.steps:
        if isinstance(step, CopyBase):
            begins = create.data_offset
            told = f"it copies to byte {step.data_offset}, not {begins} ({case})"
            require(step.data_offset == begins, told)


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
    changes_existing(subject)
    return (
        (case, plan)
        for case, plan in answers.plans(subject)
        if case.current is not None
    )
