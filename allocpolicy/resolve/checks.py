"""Refusing extra specs that the operator does not allow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from allocpolicy import wording
from allocpolicy.errors import (
    ExtraSpecError,
)
from allocpolicy.registry import installed
from allocpolicy.resolve.candidates import closed
from allocpolicy.resolve.extra_specs import Spec, StrategySpec

if TYPE_CHECKING:
    from allocpolicy.contract.policy import Policy


def check_choices(specs: Iterable[Spec], *, policy: Policy) -> None:
    """Check the strategies that the extra specs choose, for other disks too.

    :raises ExtraSpecError: when one is not allowed, or not installed.
    """
    for spec in specs:
        if not isinstance(spec, StrategySpec):
            continue
        allowed = policy.allowed_strategies
        if allowed and spec.value not in allowed:
            listed = wording.choices(allowed, nearest_to=spec.value)
            reason = f"the operator's allowed_strategies does not include it; {listed}"
            raise ExtraSpecError(spec.key, spec.value, reason)
        names = installed.names()
        if spec.value not in names:
            listed = wording.choices(allowed or names, nearest_to=spec.value)
            reason = f"no such strategy is installed; {listed}"
            raise ExtraSpecError(spec.key, spec.value, reason)


def stamp_refusal(strategy: str, *, policy: Policy) -> str | None:
    """Return why a disk's stamp may not choose the strategy, or None.

    The disk's owner can write any stamp: it chooses among what extra specs may choose,
    and what the operator chose himself.
    """
    own = (policy.default_strategy, *policy.fallback_strategies)
    allowed = policy.allowed_strategies
    if strategy in own or strategy in allowed:
        return None
    named = f"its stamp names strategy {strategy!r}"
    listed = wording.choices(dict.fromkeys((*allowed, *own)), nearest_to=strategy)
    if not policy.flavor_override:
        return f"{named}, and {closed(policy)}; {listed}"
    if allowed:
        return f"{named}, and the operator's allowed_strategies does not; {listed}"
    return None


def refuse_overrides(specs: Iterable[Spec], *, policy: Policy) -> None:
    """Refuse the command line's extra specs if the operator allows none.

    :raises ExtraSpecError: naming the first.
    """
    for spec in specs:
        reason = f"{closed(policy)}: only preallocate_images decides"
        raise ExtraSpecError(spec.key, spec.value, reason)
