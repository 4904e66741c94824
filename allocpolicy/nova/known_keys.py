"""The extra specs that the installed strategies know, and which values each takes.

The grammar is that of `resolve.extra_specs`. A strategy that can't be used has no keys,
and no other strategy suffers from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from allocpolicy import wording
from allocpolicy.errors import Error
from allocpolicy.record import dataclass, field
from allocpolicy.registry import installed, option_values
from allocpolicy.registry.blame import blaming
from allocpolicy.registry.installed import Loaded
from allocpolicy.resolve.extra_specs import STRATEGY, STRATEGY_KEYS, option_key

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyKey:
    """A key whose value is the name of a strategy."""

    name: str
    names: Sequence[str]

    @property
    def rule(self) -> Mapping[str, Any]:
        """The value's schema."""
        role = self.name.removeprefix(STRATEGY).removeprefix(".")
        disks = f"the {role} disk alone" if role else "each of the flavor's disks"
        about = f"The allocation strategy of {disks}."
        return {"type": "string", "enum": list(self.names), "description": about}

    def refusal(self, value: str) -> str | None:
        """Return why the value is refused, with what is allowed, or None."""
        if value in self.names:
            return None
        return f"no such strategy; {wording.choices(self.names, nearest_to=value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionKey:
    """A key whose value is that of a strategy's option."""

    name: str
    option: str
    loaded: Loaded = field(repr=False)

    @property
    def rule(self) -> Mapping[str, Any]:
        """The value's schema."""
        rule: Mapping[str, Any] = self.loaded.options_schema["properties"][self.option]
        return rule

    def refusal(self, value: str) -> str | None:
        """Return why the value is refused, with what is allowed, or None."""
        schema = self.loaded.options_schema
        try:
            with blaming(self.loaded.found, passed=(option_values.OptionError,)):
                option_values.check_one(self.option, value, options_schema=schema)
        except option_values.OptionError as error:
            return error.reason
        except Error as error:
            return str(error)
        return None


Key = StrategyKey | OptionKey


def find() -> tuple[Key, ...]:
    """Return the keys that a flavor may have; a strategy that fails is logged."""
    usable = tuple(_usable())
    names = tuple(loaded.found.name for loaded in usable)
    choosing = (StrategyKey(name=key, names=names) for key in STRATEGY_KEYS)
    return (*choosing, *(key for loaded in usable for key in _options(loaded)))


def _usable() -> Iterator[Loaded]:
    for name in installed.names():
        try:
            yield installed.load(name)
        except Error as error:
            said = wording.one_line(str(error))
            LOG.warning("No flavor can choose strategy %r: %s", name, said)


def _options(loaded: Loaded) -> Iterator[OptionKey]:
    for option in loaded.options_schema["properties"]:
        name = option_key(strategy=loaded.found.name, option=option)
        yield OptionKey(name=name, option=option, loaded=loaded)
