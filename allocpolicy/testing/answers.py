"""What a strategy answers to every case; asked once, for all pure laws."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from allocpolicy import Error, Plan, PlanError, Unsupported
from allocpolicy.record import dataclass, field, replace
from allocpolicy.registry import call, hooks, installed
from allocpolicy.registry.installed import Loaded
from allocpolicy.testing import cases, watch
from allocpolicy.testing.cases import Case
from allocpolicy.testing.subject import Subject

_EVERY = 7  # of the cases of which it is checked that they stay as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A plan or an error; ``again``: that of another instance of the strategy.

    ``io`` is what was seen of I/O while the strategy planned. ``changed``: its request
    or its facts are not what they were.
    """

    case: Case
    given: Plan | Error
    again: Plan | Error
    io: tuple[str, ...] = field(default=(), repr=False)
    changed: bool = False

    @property
    def steady(self) -> bool:
        """Whether both instances answer alike."""
        return alike(self.given, self.again)

    @property
    def refused(self) -> bool:
        """Whether it is a refusal that the contract knows."""
        return isinstance(self.given, PlanError | Unsupported)


@functools.lru_cache(maxsize=4)
def of(subject: Subject) -> tuple[Answer, ...]:
    """Return the answers to every case: new disks, then those that exist."""
    other = installed.load(subject.name)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with subject.environment(directory):
            return tuple(
                _answered(subject, other, case, checked=index % _EVERY == 0)
                for index, case in enumerate(_asked(subject, directory=directory))
            )


def plans(subject: Subject) -> Iterator[tuple[Case, Plan]]:
    """Yield every case that the strategy serves, with its plan."""
    for answer in of(subject):
        if isinstance(answer.given, Plan):
            yield answer.case, answer.given


def observed(loaded: Loaded, case: Case) -> Case:
    """Return the case with what the strategy observes.

    :raises Error: when it refuses already, or fails.
    """
    if not hooks.is_own(loaded.strategy, "observe"):
        return case
    seen = call.observe(
        loaded, request=case.request, options=case.options, host=case.facts.host
    )
    return replace(case, facts=replace(case.facts, observed=seen))


def ask(loaded: Loaded, case: Case) -> Plan:
    """Return the plan, checked.

    :raises PlanError: when no storage could fulfil the request.
    :raises Unsupported: when this storage cannot.
    :raises StrategyFailed: when the strategy breaks the contract.
    """
    options, request, facts = case.options, case.request, case.facts
    if case.current is None:
        return call.plan(loaded, options=options, request=request, facts=facts)
    return call.amend(
        loaded,
        options=options,
        request=request,
        facts=facts,
        current=case.current,
    )


def answer(loaded: Loaded, case: Case) -> Plan | Error:
    """Return the plan, or the error instead of it."""
    try:
        return ask(loaded, case)
    except Error as error:
        return error


def hook(loaded: Loaded, name: str, **offered: object) -> object:
    """Return what a hook returns, as it is: neither checked nor blamed."""
    takes = loaded.takes[name]
    given = {key: value for key, value in offered.items() if key in takes}
    returned: object = getattr(loaded.strategy, name)(**given)
    return returned


def _asked(subject: Subject, *, directory: Path) -> Iterator[Case]:
    for options in subject.option_sets:
        yield from cases.new_disks(options, directory=directory)
        if subject.changes_existing:
            yield from cases.existing_disks(options, directory=directory)


def _answered(subject: Subject, other: Loaded, case: Case, *, checked: bool) -> Answer:
    loaded = subject.loaded
    try:
        case = observed(loaded, case)
    except Error as error:
        return Answer(case=case, given=error, again=error)
    before = repr(case) if checked else ""
    with watch.io() as seen:
        given = answer(loaded, case)
        again = answer(other, case)
    return Answer(
        case=case,
        given=given,
        again=again,
        io=tuple(seen),
        changed=checked and repr(case) != before,
    )


def alike(one: Plan | Error, other: Plan | Error) -> bool:
    """Return whether two answers are the same plan, or the same error."""
    if isinstance(one, Plan):
        return one == other
    return type(one) is type(other) and str(one) == str(other)
