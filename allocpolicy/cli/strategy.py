"""``allocpolicy strategy list`` and ``strategy show``: what is installed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from allocpolicy.cli.command import STRUCTURED, Lister, ShowOne, lines
from allocpolicy.errors import Error
from allocpolicy.registry import installed
from allocpolicy.registry.installed import Found


class StrategyList(Lister):
    """List the installed strategies, broken ones included."""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Return a row for every entry point that claims a name."""
        rows: list[tuple[object, ...]] = [
            (found.name, found.distribution, found.version, _summary(found))
            for found in installed.find_all()
        ]
        return ("Name", "Distribution", "Version", "Summary"), rows


class StrategyShow(ShowOne):
    """Show a strategy and its options."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the name."""
        parser.add_argument("name", metavar="NAME", help="an installed strategy")

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[object, ...]]:
        """Return what the strategy says of itself."""
        loaded = installed.load(parsed_args.name)
        found, strategy = loaded.found, loaded.strategy
        options: object = dict(strategy.options_schema)
        if parsed_args.formatter not in STRUCTURED:
            options = _options(found.name, strategy.options_schema)
        rows = {
            "name": found.name,
            "summary": strategy.summary,
            "distribution": found.distribution,
            "version": found.version,
            "target": found.target,
            "api_version": strategy.api_version,
            "options": options,
        }
        return tuple(rows), tuple(rows.values())


def _summary(found: Found) -> str:
    try:
        return installed.load(found.name).strategy.summary
    except Error as error:
        return f"not usable: {error}"


def _options(strategy: str, options_schema: Mapping[str, object]) -> str:
    properties = options_schema.get("properties", {})
    assert isinstance(properties, dict)
    texts = [_option(strategy, name, one) for name, one in properties.items()]
    return lines(texts) or "none"


def _option(strategy: str, name: str, schema: Mapping[str, object]) -> str:
    values = schema.get("enum")
    allowed = (
        " | ".join(map(str, values)) if isinstance(values, list) else schema["type"]
    )
    text = f"allocpolicy:{strategy}.{name} = {allowed} (default: {schema['default']})"
    return f"{text}\n    {schema.get('description', '')}"
