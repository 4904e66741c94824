"""The hooks of a strategy: which arguments each one takes.

A hook is called with the arguments that its signature takes. So a strategy may leave
out what it has no use for, and a later version of the contract may have more.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from inspect import Parameter

from allocpolicy.contract.strategy import Strategy
from allocpolicy.errors import ContractBroken

HOOKS: Mapping[str, frozenset[str]] = {
    "observe": frozenset({"request", "options", "host"}),
    "plan": frozenset({"request", "options", "facts"}),
    "amend": frozenset({"request", "current", "options", "facts"}),
    "verify": frozenset({"options", "observation"}),
    "attach": frozenset({"options", "observation"}),
    "exclusive": frozenset({"request", "options"}),
    "migrate": frozenset({"options", "version"}),
}


def accepted(strategy: Strategy) -> Mapping[str, frozenset[str]]:
    """Return which arguments each hook takes, of those that there are.

    :raises ContractBroken: when a hook can't be called, or needs another argument.
    """
    return {
        hook: _taken(hook, getattr(strategy, hook, None), offered=offered)
        for hook, offered in HOOKS.items()
    }


def is_own(strategy: Strategy, hook: str) -> bool:
    """Return whether a strategy has the hook itself, and not only by default."""
    return getattr(type(strategy), hook, None) is not getattr(Strategy, hook)


def _taken(hook: str, method: object, *, offered: frozenset[str]) -> frozenset[str]:
    if not callable(method):
        raise ContractBroken(f"{hook} is not a method")
    if inspect.iscoroutinefunction(method):
        raise ContractBroken(f"{hook}() is a coroutine")
    parameters = inspect.signature(method).parameters.values()
    if any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
        return offered
    for one in parameters:
        needed = one.default is Parameter.empty and one.kind is not one.VAR_POSITIONAL
        if needed and (one.kind is one.POSITIONAL_ONLY or one.name not in offered):
            known = ", ".join(sorted(offered))
            raise ContractBroken(
                f"{hook}() needs {one.name!r}; it is called with the keywords {known}"
            )
    named = {one.name for one in parameters if one.kind is not one.POSITIONAL_ONLY}
    return offered & named
