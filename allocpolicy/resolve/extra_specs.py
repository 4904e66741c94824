"""The grammar of the keys under ``allocpolicy:``, in Nova's scoped form.

========================================  =======================================
``allocpolicy:strategy``                  the strategy of the flavor's disks
``allocpolicy:strategy.root``             of the root disk alone; also
                                          ``.ephemeral`` and ``.swap``
``allocpolicy:<strategy>.<option>``       an option of that strategy
========================================  =======================================

Keys in other namespaces are ignored: others read a flavor, too. `selection` checks that
strategies and options exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from allocpolicy import wording
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import ExtraSpecError
from allocpolicy.record import dataclass

NAMESPACE = "allocpolicy:"
STRATEGY = f"{NAMESPACE}strategy"
STRATEGY_KEYS = (STRATEGY, *(f"{STRATEGY}.{role}" for role in DiskRole))
GRAMMAR = (*STRATEGY_KEYS, f"{NAMESPACE}<strategy>.<option>")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategySpec:
    """A key that chooses the strategy of one disk, or of every disk (None)."""

    key: str
    value: str
    source: str
    disk_role: DiskRole | None = None

    @property
    def subject(self) -> str:
        """What the key decides."""
        return "strategy"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """A key that sets an option of a strategy."""

    key: str
    value: str
    source: str
    strategy: str
    option: str

    @property
    def subject(self) -> str:
        """What the key decides."""
        return f"{self.strategy}.{self.option}"


Spec = StrategySpec | OptionSpec


def option_key(*, strategy: str, option: str) -> str:
    """Return the key that sets an option of a strategy."""
    return f"{NAMESPACE}{strategy}.{option}"


def parse(extra_specs: Mapping[str, str], *, source: str) -> tuple[Spec, ...]:
    """Return the settings of the ``allocpolicy:`` keys, in the mapping's order.

    :raises ExtraSpecError: for a key outside the grammar.
    """
    return tuple(
        _parse_one(key, value, source=source)
        for key, value in extra_specs.items()
        if key.startswith(NAMESPACE)
    )


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Return the mapping in the ``KEY=VALUE`` arguments of a command line.

    :raises ExtraSpecError: for an argument without ``=``, and for a key that is given
        twice.
    """
    extra_specs: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ExtraSpecError(key, "", "write KEY=VALUE")
        if key in extra_specs:
            raise ExtraSpecError(key, value, "the key is given twice")
        extra_specs[key] = value
    return extra_specs


def _parse_one(key: str, value: str, *, source: str) -> Spec:
    if key == STRATEGY:
        return StrategySpec(key=key, value=value, source=source)
    scope, dot, name = key.removeprefix(NAMESPACE).partition(".")
    if not (scope and dot and name):
        raise _unknown(key, value)
    if scope != "strategy":
        return OptionSpec(
            key=key, value=value, source=source, strategy=scope, option=name
        )
    if name not in tuple(DiskRole):
        raise _unknown(key, value)
    return StrategySpec(key=key, value=value, source=source, disk_role=DiskRole(name))


def _unknown(key: str, value: str) -> ExtraSpecError:
    reason = f"there is no such key; {wording.choices(GRAMMAR, nearest_to=key)}"
    return ExtraSpecError(key, value, reason)
