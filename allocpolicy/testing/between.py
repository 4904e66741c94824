"""Steps of the suite's own before, between and after a strategy's: to look, or to fail.

They are put into its plans where it returns them, so that everything else is what it is
for a user: the framework checks the plan, admits it, and carries it out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from allocpolicy import Mode, Plan, Progress, Step, Strategy, Target
from allocpolicy.record import dataclass, replace

_HOOKS = ("plan", "amend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside(Step):
    """Do something beside the disk, which is left alone."""

    does: Callable[[Target], None]
    in_place: bool = True
    online: bool = True

    def describe(self) -> str:
        """Say what it is."""
        return "let the conformance suite look on"

    def run(self, target: Target, progress: Progress) -> None:
        """Do it."""
        self.does(target)


@contextmanager
def plans_of(strategy: Strategy) -> Iterator[list[Plan]]:
    """Have a list of the plans that the strategy makes meanwhile."""
    made: list[Plan] = []

    def noted(plan: Plan) -> Plan:
        made.append(plan)
        return plan

    with _plans(strategy, noted):
        yield made


@contextmanager
def every_step(strategy: Strategy, does: Callable[[Target], None]) -> Iterator[None]:
    """Have something done before each step of the strategy's plans, and at the end."""

    def interleaved(plan: Plan) -> Plan:
        aside = Aside(does=does)
        steps = [one for step in plan.steps for one in (aside, step)]
        return _having(plan, (*steps, *_last(plan, aside)))

    with _plans(strategy, interleaved):
        yield


@contextmanager
def one_step(
    strategy: Strategy, does: Callable[[], None], *, at: int
) -> Iterator[None]:
    """Have something done before the step of that number, from 0, or after the last.

    Nothing follows a step that adopts a file but the verdict: then it is done there.
    """
    aside = Aside(does=lambda _: does())
    left: list[Callable[[], None]] = []

    def interrupted(plan: Plan) -> Plan:
        if at < len(plan.steps):
            return _having(plan, (*plan.steps[:at], aside, *plan.steps[at:]))
        last = _last(plan, aside)
        left[:] = [] if last else [does]
        return _having(plan, (*plan.steps, *last))

    def judging(verdict: object) -> object:
        for one in left:
            one()
        return verdict

    with _plans(strategy, interrupted), _changed(type(strategy), "verify", judging):
        yield


def _last(plan: Plan, aside: Aside) -> tuple[Step, ...]:
    """Return what ends a plan: nothing follows a step that adopts a file."""
    adopts = plan.steps and getattr(plan.steps[-1], "adopts", None) is not None
    return () if adopts else (aside,)


def _having(plan: Plan, steps: tuple[Step, ...]) -> Plan:
    return plan if plan.mode is Mode.NOTHING else replace(plan, steps=steps)


@contextmanager
def _plans(strategy: Strategy, changed: Callable[[Plan], Plan]) -> Iterator[None]:
    """Change what the strategy's class plans; every instance of it has the class."""

    def planned(plan: object) -> object:
        return changed(plan) if type(plan) is Plan else plan

    with ExitStack() as stack:
        for hook in _HOOKS:
            if getattr(type(strategy), hook) is not getattr(Strategy, hook):
                stack.enter_context(_changed(type(strategy), hook, planned))
        yield


@contextmanager
def _changed(
    kind: type[Strategy], hook: str, changed: Callable[[object], object]
) -> Iterator[None]:
    """Change what a class's hook returns."""
    original: Callable[..., object] = getattr(kind, hook)

    @functools.wraps(original)  # its signature tells what it is called with
    def instead(self: Strategy, **given: object) -> object:
        return changed(original(self, **given))

    own = hook in vars(kind)
    setattr(kind, hook, instead)
    try:
        yield
    finally:
        if own:
            setattr(kind, hook, original)
        else:
            delattr(kind, hook)
