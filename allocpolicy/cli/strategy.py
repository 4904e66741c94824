"""``allocpolicy strategy list`` and ``strategy show``: what is installed."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping

from allocpolicy.cli.cells import lines, structured
from allocpolicy.cli.command import Lister, Row, ShowOne
from allocpolicy.errors import Error
from allocpolicy.registry import installed
from allocpolicy.registry.installed import Found


class StrategyList(Lister):
    """List the installed strategies, including those that cannot be used."""

    columns = ("Name", "Distribution", "Version", "Summary")

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        return [
            (found.name, found.distribution, found.version, _summary(found))
            for found in installed.find_all()
        ]


class StrategyShow(ShowOne):
    """Show a strategy and its options."""

    columns = fields = (
        *("name", "summary", "distribution", "version", "target", "api_version"),
        "options",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="an installed strategy")

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
        loaded = installed.load(arguments.name)
        found, options_schema = loaded.found, loaded.options_schema
        return {
            "name": found.name,
            "summary": loaded.summary,
            "distribution": found.distribution,
            "version": found.version,
            "target": found.target,
            "api_version": loaded.api_version,
            "options": dict(options_schema)
            if structured(arguments)
            else _options(found.name, options_schema),
        }


def _summary(found: Found) -> str:
    try:
        return installed.load(found.name).summary
    except Error as error:
        return f"not usable: {error}"


def _options(strategy: str, options_schema: Mapping[str, object]) -> str:
    properties = options_schema.get("properties", {})
    assert isinstance(properties, dict)
    texts = (_option(strategy, name, one) for name, one in properties.items())
    return lines(itertools.chain.from_iterable(texts)) or "none"


def _option(strategy: str, name: str, schema: Mapping[str, object]) -> tuple[str, str]:
    values = schema.get("enum")
    allowed = (
        " | ".join(map(str, values)) if isinstance(values, list) else schema["type"]
    )
    text = f"allocpolicy:{strategy}.{name} = {allowed} (default: {schema['default']})"
    return text, f"    {schema.get('description', '')}"
