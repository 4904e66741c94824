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


def refuse_overrides(specs: Iterable[Spec], *, policy: Policy) -> None:
    """Refuse the command line's extra specs if the operator allows none.

    :raises ExtraSpecError: naming the first.
    """
    for spec in specs:
        reason = f"{closed(policy)}: only preallocate_images decides"
        raise ExtraSpecError(spec.key, spec.value, reason)
