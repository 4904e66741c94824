"""Calling a strategy's code; errors name the plugin and its target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

from allocpolicy.contract.facts import Facts, Host, Observation
from allocpolicy.contract.plan import Plan, Step
from allocpolicy.contract.strategy import Attachment, Request, Verdict
from allocpolicy.errors import Error, InvalidRequest, PlanError, StrategyFailed
from allocpolicy.registry.installed import Found, Loaded

Options = Mapping[str, object]
Answer = TypeVar("Answer")


@contextlib.contextmanager
def blaming(found: Found) -> Iterator[None]:
    """Turn the body's exceptions, except for our errors, into StrategyFailed.

    :raises StrategyFailed: from the original, naming the plugin and its target.
    """
    try:
        yield
    except Error:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise StrategyFailed(found.name, found.target, reason) from error


def observe(
    loaded: Loaded, *, request: Request, options: Options, host: Host
) -> Mapping[str, object]:
    """Return the facts that the strategy observes before planning."""
    with blaming(loaded.found):
        return loaded.strategy.observe(request=request, options=options, host=host)


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
        made = _expect(answer, Plan, loaded.found, "plan")
        sizes = (made.peak_bytes, made.promised_bytes, made.reserved_bytes)
        if min(sizes) < 0:  # TypeError if one is not a number
            raise ValueError(f"the plan's sizes are {sizes}, not byte counts")
        if not all(isinstance(step, Step) for step in made.steps):
            raise TypeError("not all of the plan's steps are steps")
    return made


def describe(loaded: Loaded, *, plan: Plan) -> tuple[str, ...]:
    """Return one line for each step."""
    with blaming(loaded.found):
        return tuple(" ".join(step.describe().split("\n")) for step in plan.steps)


def verify(loaded: Loaded, *, options: Options, observation: Observation) -> Verdict:
    """Return the strategy's judgement of a disk."""
    with blaming(loaded.found):
        answer = loaded.strategy.verify(options=options, observation=observation)
    return _expect(answer, Verdict, loaded.found, "verify")


def attach(loaded: Loaded, *, options: Options, observation: Observation) -> Attachment:
    """Return how a VM must attach the disk."""
    with blaming(loaded.found):
        answer = loaded.strategy.attach(options=options, observation=observation)
    return _expect(answer, Attachment, loaded.found, "attach")


def _expect(answer: object, kind: type[Answer], found: Found, hook: str) -> Answer:
    if isinstance(answer, kind):
        return answer
    reason = f"{hook}() returned {type(answer).__name__}, not {kind.__name__}"
    raise StrategyFailed(found.name, found.target, reason)
