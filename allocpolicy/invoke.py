"""Calling a strategy's code, so that its failures name the plugin and its target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

from allocpolicy.errors import Error, StrategyFailed
from allocpolicy.facts import Facts, Host, Observation
from allocpolicy.plan import Plan
from allocpolicy.registry import Found, Loaded
from allocpolicy.strategy import Attachment, Request, Verdict

Options = Mapping[str, object]
Answer = TypeVar("Answer")


@contextlib.contextmanager
def blaming(found: Found) -> Iterator[None]:
    """Turn what the body raises, other than our errors, into StrategyFailed.

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
    """Return what the strategy itself wants to know before planning."""
    with blaming(loaded.found):
        return loaded.strategy.observe(request=request, options=options, host=host)


def plan(loaded: Loaded, *, request: Request, options: Options, facts: Facts) -> Plan:
    """Return the strategy's plan."""
    with blaming(loaded.found):
        answer = loaded.strategy.plan(request=request, options=options, facts=facts)
    return _expect(answer, Plan, loaded.found, "plan")


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
