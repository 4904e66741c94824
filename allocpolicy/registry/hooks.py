"""The hooks of a strategy: which arguments each one takes.

A hook is called with the arguments that its signature takes. So a strategy may leave
out what it has no use for, and a later version of the contract may have more.
"""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy.contract import signature
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
    if (deferred := signature.deferred(method)) == "a coroutine":
        raise ContractBroken(f"{hook}() is {deferred}")
    takes = signature.parameters(method)
    if takes.takes_any:
        return offered
    for name in takes.needed:
        if name in takes.positional_only or name not in offered:
            known = ", ".join(sorted(offered))
            raise ContractBroken(
                f"{hook}() needs {name!r}; it is called with the keywords {known}"
            )
    return offered.intersection(takes.by_keyword)
