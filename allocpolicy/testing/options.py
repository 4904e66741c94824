"""The options with which the suite is run on a strategy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.registry import option_values
from allocpolicy.registry.installed import Loaded

_MANY = 3  # values of one option; of more, two are tried where it takes long


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


def few(sets: Sequence[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
    """Yield the defaults, and of each option few values: the first and the last.

    :param sets: the defaults, then those to try.
    """
    first, *others = sets

    def changed(one: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(name for name in one if one[name] != first[name])

    yield first
    for _, group in itertools.groupby(others, key=changed):
        alike = list(group)
        yield from alike if len(alike) <= _MANY else (alike[0], alike[-1])


def worth_trying(schema: Mapping[str, Any]) -> Iterator[Mapping[str, object]]:
    """Yield each option at each value that the schema names, and at its limits."""
    for name, option in schema["properties"].items():
        values = list(option.get("enum", ()))
        values += [option[at] for at in ("minimum", "maximum") if at in option]
        if option["type"] == "boolean":
            values += [False, True]
        for value in values:
            yield {name: value}
