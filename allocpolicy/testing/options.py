"""The options with which the suite is run on a strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.registry import option_values
from allocpolicy.registry.installed import Loaded


def sets(
    loaded: Loaded, *, given: Iterable[Mapping[str, object]] | None
) -> tuple[Mapping[str, object], ...]:
    """Return complete options: the defaults, then those given, or worth trying.

    :raises schema.Invalid: when some don't match the strategy's schema.
    """
    schema = loaded.options_schema
    chosen = worth_trying(schema) if given is None else given
    completed: list[Mapping[str, object]] = []
    for one in ({}, *chosen):
        options = option_values.complete(one, options_schema=schema)
        if options not in completed:
            completed.append(options)
    return tuple(map(ReadOnly, completed))


def worth_trying(schema: Mapping[str, Any]) -> Iterator[Mapping[str, object]]:
    """Yield each option at each value that the schema names, and at its limits."""
    for name, option in schema["properties"].items():
        values = list(option.get("enum", ()))
        values += [option[at] for at in ("minimum", "maximum") if at in option]
        if option["type"] == "boolean":
            values += [False, True]
        for value in values:
            yield {name: value}
