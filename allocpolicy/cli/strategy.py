"""``allocpolicy strategy list`` and ``strategy show``: what is installed."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping

from allocpolicy.cli import serving
from allocpolicy.cli.cells import blanked, lines, structured
from allocpolicy.cli.command import Lister, Row, ShowOne
from allocpolicy.contract.strategy import API_VERSIONS, Strategy
from allocpolicy.errors import Error
from allocpolicy.record import asdict
from allocpolicy.registry import installed
from allocpolicy.registry.entry_points import Found
from allocpolicy.registry.installed import Loaded


class StrategyList(Lister):
    """List the installed strategies, including those that cannot be used."""

    columns = ("Name", "Distribution", "Version", "Changes existing", "Summary")

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        rows = [
            (found.name, found.distribution, found.version, *_summary(found))
            for found in installed.find_all()
        ]
        return blanked(rows, arguments=arguments)


class StrategyShow(ShowOne):
    """Show a strategy: where it is from, its options, and what it serves.

    For what it serves its plans are asked for, with its default options and with facts
    of typical storage: no disk is made.
    """

    columns = (
        *("name", "summary", "distribution", "version", "target", "api_version"),
        *("serves", "changes_existing", "exclusive", "migrates", "options"),
    )
    fields = (*columns, "api_versions")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="an installed strategy")

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
        loaded = installed.load(arguments.name)
        found = loaded.found
        return {
            "name": found.name,
            "summary": loaded.summary,
            "distribution": found.distribution,
            "version": found.version,
            "target": found.target,
            **(_data(loaded) if structured(arguments) else _text(loaded)),
        }


def _data(loaded: Loaded) -> dict[str, object]:
    return {
        "api_version": loaded.api_version,
        "api_versions": list(API_VERSIONS),
        "serves": [{**asdict(one), "served": one.served} for one in serving.of(loaded)],
        "changes_existing": _has_own(loaded, "amend"),
        "exclusive": _has_own(loaded, "exclusive"),
        "migrates": _has_own(loaded, "migrate"),
        "options": dict(loaded.options_schema),
    }


def _text(loaded: Loaded) -> dict[str, object]:
    accepted = ", ".join(map(str, API_VERSIONS))
    locks, migrates = (_has_own(loaded, hook) for hook in ("exclusive", "migrate"))
    return {
        "api_version": f"{loaded.api_version} (accepted: {accepted})",
        "serves": lines(serving.of(loaded)),
        "changes_existing": "yes" if _has_own(loaded, "amend") else "no",
        "exclusive": "yes: it may hold a lock" if locks else "no",
        "migrates": "yes: options in stamps of other versions" if migrates else "no",
        "options": _options(loaded.found.name, loaded.options_schema),
    }


def _has_own(loaded: Loaded, hook: str) -> bool:
    """Return whether the strategy has a method of its own, not the contract's."""
    own, default = getattr(type(loaded.strategy), hook), getattr(Strategy, hook)
    return own is not default


def _summary(found: Found) -> tuple[bool | None, str]:
    """Return whether the strategy changes existing disks, and its summary."""
    try:
        loaded = installed.load(found.name)
    except Error as error:
        return None, f"not usable: {error}"
    return _has_own(loaded, "amend"), loaded.summary


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
