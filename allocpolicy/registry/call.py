"""Calling a strategy's code; errors name the plugin and its target."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TypeVar

from allocpolicy import wording
from allocpolicy.contract.facts import Facts, Host, Observation
from allocpolicy.contract.plan import Mode, Plan, Step, Target
from allocpolicy.contract.policy import Machines
from allocpolicy.contract.strategy import (
    Attachment,
    Judgement,
    Request,
    Verdict,
)
from allocpolicy.errors import InvalidRequest, PlanError, StrategyFailed
from allocpolicy.progress import Watcher
from allocpolicy.registry import attachment
from allocpolicy.registry.blame import blaming
from allocpolicy.registry.installed import Found, Loaded

Options = Mapping[str, object]
Answer = TypeVar("Answer")


def observe(
    loaded: Loaded, *, request: Request, options: Options, host: Host
) -> Mapping[str, object]:
    """Return the facts that the strategy observes before planning."""
    with blaming(loaded.found):
        answer: object = loaded.strategy.observe(
            request=request, options=options, host=host
        )
        if not isinstance(answer, Mapping):
            raise TypeError(f"observe() returned {type(answer).__name__}")
        return dict(answer)


def plan(loaded: Loaded, *, request: Request, options: Options, facts: Facts) -> Plan:
    """Return the strategy's plan, with the types of its numbers and steps checked.

    :raises PlanError: also for sizes that no image can have.
    """
    with blaming(loaded.found):
        try:
            answer = loaded.strategy.plan(request=request, options=options, facts=facts)
        except InvalidRequest as error:
            if type(error) is not InvalidRequest:
                raise
            raise PlanError(error.reason) from error
        return _plan(_expect(answer, Plan, loaded.found, "plan"))


def describe(loaded: Loaded, *, plan: Plan) -> tuple[str, ...]:
    """Return one line for each step."""
    with blaming(loaded.found):
        return tuple(map(described, plan.steps))


def described(step: Step) -> str:
    """Return the step's description in one line; call it where its plugin is blamed.

    :raises TypeError: when it is no string.
    """
    said: object = step.describe()
    if not isinstance(said, str):
        raise TypeError(f"describe() returned {type(said).__name__}, not str")
    return wording.bounded(said)


def check(step: Step, target: Target) -> None:
    """Let the step check what can be known; call it where its plugin is blamed."""
    hook: object = getattr(step, "check", None)
    if callable(hook):
        hook(target)


def run(step: Step, target: Target, *, watch: Watcher) -> None:
    """Run one step; call it where its plugin is blamed."""
    step.run(target, watch(described(step)))


def verify(loaded: Loaded, *, options: Options, observation: Observation) -> Verdict:
    """Return the strategy's judgement of a disk."""
    with blaming(loaded.found):
        answer = loaded.strategy.verify(options=options, observation=observation)
        given = _expect(answer, Verdict, loaded.found, "verify")
        return Verdict(
            judgement=Judgement(given.judgement),
            reason=wording.bounded(str(given.reason)),
        )


def attach(
    loaded: Loaded, *, options: Options, observation: Observation, machines: Machines
) -> Attachment:
    """Return how a VM must attach the disk, so that it starts."""
    with blaming(loaded.found):
        answer = loaded.strategy.attach(options=options, observation=observation)
        wanted = attachment.checked(_expect(answer, Attachment, loaded.found, "attach"))
    return attachment.fitted(wanted, observed=observation, machines=machines)


def _plan(given: Plan) -> Plan:
    """Return the plan as plain values, each read once, while the plugin is blamed."""
    made = Plan(
        mode=Mode(given.mode),
        steps=tuple(given.steps),
        peak_bytes=operator.index(given.peak_bytes),
        promised_bytes=operator.index(given.promised_bytes),
        reserved_bytes=operator.index(given.reserved_bytes),
        written=bool(given.written),
        online=bool(given.online),
        reason=wording.bounded(str(given.reason)),
    )
    sizes = (made.peak_bytes, made.promised_bytes, made.reserved_bytes)
    if min(sizes) < 0:
        raise ValueError(f"the plan's sizes are {sizes}, not byte counts")
    if not all(isinstance(step, Step) for step in made.steps):
        raise TypeError("not all of the plan's steps are steps")
    return made


def _expect(answer: object, kind: type[Answer], found: Found, hook: str) -> Answer:
    if isinstance(answer, kind):
        return answer
    reason = f"{hook}() returned {type(answer).__name__}, not {kind.__name__}"
    raise StrategyFailed(found.name, found.target, reason)
