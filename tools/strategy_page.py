"""Print the options of the strategies that allocpolicy comes with.

docs/conf.py puts it into docs/reference/strategies.md while the site is built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from typing import Any

from allocpolicy import Strategy

GROUP = "allocpolicy.strategies"


def bundled() -> dict[str, type[Strategy]]:
    """Return the strategies of our own distribution."""
    found = distribution("allocpolicy").entry_points.select(group=GROUP)
    return {one.name: one.load() for one in sorted(found, key=lambda one: one.name)}


def rows(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table's row for each option."""
    yield from ("| option | values | default | what it does |", "|---|---|---|---|")
    for name, said in schema["properties"].items():
        values = ", ".join(f"`{one}`" for one in said.get("enum", ()))
        default = f"`{json.dumps(said['default'])}`" if "default" in said else ""
        told = said.get("description", "")
        yield f"| `{name}` | {values or said.get('type', '')} | {default} | {told} |"


def write() -> str:
    """Return all of it."""
    lines: list[str] = []
    for name, strategy in bundled().items():
        options = strategy.options_schema.get("properties")
        lines += [f"## Options of `{name}`", ""]
        lines += [*rows(strategy.options_schema)] if options else ["It has none."]
        lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(write())
