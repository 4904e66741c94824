"""Calling a strategy's code; errors name the plugin, its distribution and the hook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from allocpolicy import wording
from allocpolicy.contract.facts import Facts, Host, Observation
from allocpolicy.contract.plan import Plan, Step, Target
from allocpolicy.contract.plan_check import check_plan
from allocpolicy.contract.policy import Machines
from allocpolicy.contract.read_only import ReadOnly, frozen, thawed
from allocpolicy.contract.strategy import Attachment, Judgement, Request, Verdict
from allocpolicy.errors import ContractBroken, PlanError
from allocpolicy.progress import Watcher
from allocpolicy.record import replace
from allocpolicy.registry import attachment, hooks
from allocpolicy.registry.blame import blaming
from allocpolicy.registry.installed import Loaded

Options = Mapping[str, object]
Answer = TypeVar("Answer")

_LONGEST_NAME = 200  # characters of a lock's name


def observe(
    loaded: Loaded, *, request: Request, options: Options, host: Host
) -> Mapping[str, object]:
    """Return the facts that the strategy observes before planning, read-only."""
    with blaming(loaded.found, hook="observe"):
        answer = _ask(loaded, "observe", request=request, options=options, host=host)
        return ReadOnly(_mapping(answer))


def plan(loaded: Loaded, *, request: Request, options: Options, facts: Facts) -> Plan:
    """Return the strategy's plan for a new disk, checked.

    :raises PlanError: also for sizes that no image can have.
    """
    with blaming(loaded.found, hook="plan"):
        answer = _ask(loaded, "plan", request=request, options=options, facts=facts)
        return _checked(answer, request=request, facts=facts, current=None)


def amend(
    loaded: Loaded,
    *,
    request: Request,
    current: Observation,
    options: Options,
    facts: Facts,
) -> Plan:
    """Return the strategy's plan for an existing disk, checked.

    :raises PlanError: also when the strategy doesn't change existing disks.
    """
    if not hooks.is_own(loaded.strategy, "amend"):
        name = loaded.found.name
        raise PlanError(f"strategy {name!r} does not change existing disks")
    with blaming(loaded.found, hook="amend"):
        answer = _ask(
            loaded,
            "amend",
            request=request,
            current=current,
            options=options,
            facts=facts,
        )
        return _checked(answer, request=request, facts=facts, current=current)


def describe(loaded: Loaded, *, plan: Plan) -> tuple[str, ...]:
    """Return one line for each step."""
    lines = []
    for step in plan.steps:
        with blaming(loaded.found, hook=method(step, "describe")):
            lines.append(described(step))
    return tuple(lines)


def method(step: Step, name: str) -> str:
    """Return what a method of a step is called where it is blamed."""
    return f"{type(step).__name__}.{name}"


def described(step: Step) -> str:
    """Return the step's description in one line; call it where its plugin is blamed.

    :raises ContractBroken: when it is no string.
    """
    return wording.bounded(_expect(step.describe(), str))


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
    with blaming(loaded.found, hook="verify"):
        answer = _ask(loaded, "verify", options=options, observation=observation)
        given = _expect(answer, Verdict)
        return Verdict(
            judgement=_expect(given.judgement, Judgement),
            reason=wording.bounded(_expect(given.reason, str)),
        )


def attach(
    loaded: Loaded, *, options: Options, observation: Observation, machines: Machines
) -> Attachment:
    """Return how a VM must attach the disk, so that it starts."""
    wanted = wanted_attachment(loaded, options=options, observation=observation)
    return attachment.fitted(wanted, observed=observation, machines=machines)


def wanted_attachment(
    loaded: Loaded, *, options: Options, observation: Observation
) -> Attachment:
    """Return how the strategy wants a VM to attach the disk, its words checked."""
    with blaming(loaded.found, hook="attach"):
        answer = _ask(loaded, "attach", options=options, observation=observation)
        return attachment.checked(_expect(answer, Attachment))


def exclusive(loaded: Loaded, *, request: Request, options: Options) -> str | None:
    """Return the name of the lock that the strategy needs, None for none."""
    with blaming(loaded.found, hook="exclusive"):
        name = _ask(loaded, "exclusive", request=request, options=options)
        if name is None:
            return None
        if not 0 < len(_expect(name, str)) <= _LONGEST_NAME:
            raise ContractBroken(f"a name has 1 to {_LONGEST_NAME} characters")
        return str(name)


def migrate(loaded: Loaded, *, options: Options, version: str | None) -> Options:
    """Return a stamp's options as the strategy has them today, not yet validated."""
    if not hooks.is_own(loaded.strategy, "migrate"):
        return options
    with blaming(loaded.found, hook="migrate"):
        answer = _ask(loaded, "migrate", options=options, version=version)
        return {key: thawed(one) for key, one in _mapping(answer).items()}


def _ask(loaded: Loaded, hook: str, **offered: object) -> object:
    """Call a hook with the arguments that it takes; options arrive read-only."""
    offered["options"] = frozen(offered["options"])
    takes = loaded.takes[hook]
    given = {name: value for name, value in offered.items() if name in takes}
    answer: object = getattr(loaded.strategy, hook)(**given)
    return answer


def _checked(
    answer: object, *, request: Request, facts: Facts, current: Observation | None
) -> Plan:
    made = check_plan(answer, request=request, facts=facts, current=current)
    return replace(made, reason=wording.bounded(made.reason))


def _mapping(answer: object) -> Mapping[str, object]:
    """Return a mapping with read-only values.

    :raises ContractBroken: for anything else, and where a key is no string.
    """
    if not isinstance(answer, Mapping):
        raise ContractBroken(f"it returned {wording.named(answer)}, not a mapping")
    return {_expect(key, str): frozen(value) for key, value in answer.items()}


def _expect(answer: object, kind: type[Answer]) -> Answer:
    """Return an answer of the right type.

    :raises ContractBroken: for another one.
    """
    if isinstance(answer, kind):
        return answer
    raise ContractBroken(f"it returned {wording.named(answer)}, not {kind.__name__}")
