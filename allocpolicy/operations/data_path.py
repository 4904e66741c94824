"""Trying a strategy, and what `on_unsupported` allows instead of it.

This is what a new disk and an existing one have in common: plan, carry out, plan again
when what the plan relied on was lost, and fall back by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from allocpolicy.contract.facts import DiskFormat, Facts
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice, Request
from allocpolicy.errors import InvalidRequest, Replan, Unsupported
from allocpolicy.execute.new import Outcome
from allocpolicy.images.stamp import Stamp
from allocpolicy.qcow2.geometry import MAX_VIRTUAL_SIZE, SECTOR_SIZE
from allocpolicy.registry import call, installed
from allocpolicy.registry.installed import Loaded
from allocpolicy.report.report import Report
from allocpolicy.resolve import selection as resolve
from allocpolicy.resolve.selection import Selection
from allocpolicy.wording import format_size

REPLANS = 8


class CarryOut(Protocol):
    """What is done with a plan."""

    def __call__(
        self, plan: Plan, /, *, loaded: Loaded, stamp: Stamp
    ) -> Outcome | None:
        """Carry the plan out and return what came of it; None after a rehearsal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What stays the same, whichever strategy is tried.

    ``facts`` gives what was observed; what the strategy itself observes is added.
    """

    request: Request
    requested: Selection
    policy: Policy
    facts: Callable[[], Facts]
    carry_out: CarryOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A selection, its plan and steps; the outcome is None after a dry run."""

    selection: Selection
    reason: str
    plan: Plan
    steps: tuple[str, ...]
    outcome: Outcome | None

    def report(
        self,
        request: Request,
        *,
        requested: Selection,
        prepared: tuple[str, ...] = (),
        elapsed: float,
    ) -> Report:
        """Return the report of the attempt.

        :param prepared: what was done before the plan's steps.
        :param elapsed: seconds.
        """
        outcome = self.outcome
        return Report(
            disk=request.destination,
            operation=request.operation,
            mode=self.plan.mode,
            before=request.current,
            requested=requested,
            effective=self.selection,
            effective_reason=self.reason,
            observed=outcome.observation if outcome else None,
            verdict=outcome.verdict if outcome else None,
            attachment=outcome.attachment if outcome else None,
            stamp=outcome.stamp if outcome else None,
            steps=(*prepared, *self.steps),
            elapsed=elapsed,
        )


def first_supported(task: Task) -> Attempt:
    """Try the requested strategy, then what `on_unsupported` allows instead.

    :raises Unsupported: when the storage can do none of them.
    :raises Error: as `Task.carry_out` does.
    """
    fallbacks: Iterator[str] = iter(())
    if task.policy.on_unsupported == "fallback":
        for fallback in task.policy.fallback_strategies:
            installed.find(
                fallback
            )  # a misspelt one is told now, not when it is needed
        fallbacks = iter(task.policy.fallback_strategies)
    selection, reason = task.requested, "as requested"
    while True:
        try:
            return _attempt(task, selection, reason=reason)
        except Unsupported as error:
            name = next(fallbacks, None)
            if name is None:
                raise
            reason = f"fallback: {selection.strategy} is not to be had: {error.reason}"
            selection = resolve.resolve_fallback(
                task.requested, name=name, reason=reason
            )


def check_size(virtual_size: int) -> None:
    """Check that a disk can have this virtual size, in bytes.

    :raises InvalidRequest: when it cannot.
    """
    if 0 < virtual_size <= MAX_VIRTUAL_SIZE and virtual_size % SECTOR_SIZE == 0:
        return
    raise InvalidRequest(
        f"size {virtual_size}: a disk has a positive multiple of {SECTOR_SIZE} bytes,"
        f" at most {format_size(MAX_VIRTUAL_SIZE)}"
    )


def _attempt(task: Task, selection: Selection, *, reason: str) -> Attempt:
    """Plan and carry out; again when what the plan relied on was lost to another."""
    loaded = installed.load(selection.strategy)
    stamp = selected_stamp(
        selection, requested=task.requested, format=task.request.format
    )
    for remaining in reversed(range(REPLANS)):
        plan = _plan(task, loaded, selection)
        steps = call.describe(loaded, plan=plan)
        try:
            outcome = task.carry_out(plan, loaded=loaded, stamp=stamp)
        except Replan:
            if not remaining:
                raise
            continue
        break
    return Attempt(
        selection=selection,
        reason="; ".join(filter(None, (reason, plan.reason))),
        plan=plan,
        steps=steps,
        outcome=outcome,
    )


def _plan(task: Task, loaded: Loaded, selection: Selection) -> Plan:
    request, options = task.request, selection.options
    facts = task.facts()
    observed = call.observe(loaded, request=request, options=options, host=facts.host)
    facts = replace(facts, observed=observed)
    return call.plan(loaded, request=request, options=options, facts=facts)


def selected_stamp(
    selection: Selection, *, requested: Selection, format: DiskFormat
) -> Stamp:
    """Return what is recorded on a disk that is made under a selection."""
    return Stamp(
        requested=_choice(requested), effective=_choice(selection), format=format
    )


def _choice(selection: Selection) -> Choice:
    return Choice(strategy=selection.strategy, options=dict(selection.options))
