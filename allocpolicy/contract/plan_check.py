"""The rules that every plan keeps to, checked when it is made.

The conformance suite checks by the same function. A rule is about what can be known
without carrying the plan out; what its steps really did is measured afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from allocpolicy.contract.facts import Facts, Observation
from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.statements import (
    class_of,
    not_carried,
    states,
    wrong_statements,
    wrong_steps,
)
from allocpolicy.contract.strategy import Operation, Request
from allocpolicy.errors import ContractBroken
from allocpolicy.wording import named

_SIZES = ("reserved_bytes", "peak_bytes", "promised_bytes")  # each at most the next
_TYPES: Mapping[str, type] = {
    "mode": Mode,
    "steps": tuple,
    **dict.fromkeys(_SIZES, int),
    "written": bool,
    "online": bool,
    "reason": str,
}


def check_plan(
    plan: object,
    *,
    request: Request,
    facts: Facts,
    current: Observation | None = None,
) -> Plan:
    """Return the plan if it keeps to the contract.

    - ``steps`` is a tuple of steps, empty exactly if nothing is to be done, which it is
      not for a disk that is to grow;
    - sizes are ints, 0 <= reserved_bytes <= peak_bytes <= promised_bytes;
    - a new disk is staged, and a step carries its base image, with none after it that
      creates the disk anew;
    - what replaces an existing disk carries `Facts.base` or `Facts.file` likewise, and
      has no other file below it;
    - in place there are only steps that state ``in_place``, and with ``online``, which
      isn't for `Operation.RESIZE`, only those that state it;
    - a ready-made file is adopted for a new disk, by the last step;
    - a recipe is printable, and has at most 2000 characters.

    :param current: the existing disk that the plan is for; None: it is for a new one.
    :raises ContractBroken: naming the first rule that it breaks.
    """
    if not isinstance(plan, Plan):
        raise ContractBroken(f"it returned {named(plan)}, not a Plan")
    for fault in _faults(plan, request=request, facts=facts, current=current):
        raise ContractBroken(fault)
    return plan


def _faults(
    plan: Plan, *, request: Request, facts: Facts, current: Observation | None
) -> Iterator[str]:
    """Yield which rules a plan breaks; a later rule relies on the earlier ones."""
    yield from _wrong_types(plan)
    yield from wrong_steps(plan.steps)
    yield from wrong_statements(plan.steps)
    yield from _wrong_sizes(plan)
    if plan.mode is Mode.STAMPED:
        yield f"mode is {plan.mode}, which is for reports: the host records the policy"
    if bool(plan.steps) is (plan.mode is Mode.NOTHING):
        yield f"mode is {plan.mode}, and there are {len(plan.steps) or 'no'} steps"
    if current is None:
        yield from _wrong_for_new(plan, request=request, facts=facts)
    else:
        yield from _wrong_for_existing(plan, facts=facts)
        yield from _wrong_growth(plan, request=request, current=current)
    yield from _wrong_beside_a_vm(plan, request=request)
    yield from _wrong_adoption(plan, current=current)


def _wrong_types(plan: Plan) -> Iterator[str]:
    for name, kind in _TYPES.items():
        value: object = getattr(plan, name)
        if type(value) is not kind:
            yield f"{name} is {named(value)}, not {kind.__name__}"


def _wrong_sizes(plan: Plan) -> Iterator[str]:
    sizes = [getattr(plan, name) for name in _SIZES]
    if min(sizes) < 0 or sizes != sorted(sizes):
        told = ", ".join(
            f"{name} is {size}" for name, size in zip(_SIZES, sizes, strict=True)
        )
        yield f"{told}: each must be at least 0, and at most the next"
    if plan.mode is Mode.NOTHING and plan.peak_bytes:
        yield f"nothing is to be done, and peak_bytes is {plan.peak_bytes}"


def _wrong_for_new(plan: Plan, *, request: Request, facts: Facts) -> Iterator[str]:
    if plan.mode is not Mode.STAGED:
        yield f"a plan of mode {plan.mode} can't create a new disk"
    for image in (request.base, facts.base):
        if image is not None:
            called = f"the base image {image.source}"
            yield from not_carried(plan.steps, [image], called=called)


def _wrong_for_existing(plan: Plan, *, facts: Facts) -> Iterator[str]:
    if plan.mode is Mode.STAGED:
        images = [one for one in (facts.base, facts.file) if one is not None]
        yield from not_carried(plan.steps, images, called="what is on the disk")
        for step in plan.steps:
            if getattr(step, "backing", None) is not None:
                yield f"{class_of(step)} would put an overlay in the disk's place"
    if plan.mode is Mode.IN_PLACE:
        for step in plan.steps:
            if not states(step, "in_place"):
                yield f"{class_of(step)} does not state that it may run in place"


def _wrong_growth(
    plan: Plan, *, request: Request, current: Observation
) -> Iterator[str]:
    grows = request.operation is Operation.RESIZE
    wanted, there = request.virtual_size, current.virtual_size
    if plan.mode is Mode.NOTHING and grows and wanted > there:
        yield f"nothing is to be done, and the disk is to grow from {there} to {wanted}"


def _wrong_beside_a_vm(plan: Plan, *, request: Request) -> Iterator[str]:
    if not plan.online:
        return
    if plan.mode is Mode.STAGED or request.operation is Operation.RESIZE:
        yield f"{request.operation} can't be online in a plan of mode {plan.mode}"
    for step in plan.steps:
        if not states(step, "online"):
            yield f"{class_of(step)} does not state that it is safe while a VM writes"


def _wrong_adoption(plan: Plan, *, current: Observation | None) -> Iterator[str]:
    adopting = [getattr(step, "adopts", None) is not None for step in plan.steps]
    if not any(adopting):
        return
    if current is not None:
        yield "only a new disk can be a ready-made file"
    if any(adopting[:-1]):
        yield "a step follows the one that adopts a ready-made file"
