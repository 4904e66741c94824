"""``allocpolicy strategy list`` and ``strategy show``: what is installed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from allocpolicy.cli import serving
from allocpolicy.cli.command import Lister, ShowOne
from allocpolicy.cli.screens import screen
from allocpolicy.cli.screens.columns import Data, column, sentence
from allocpolicy.contract.strategy import API_VERSIONS, Strategy
from allocpolicy.errors import Error
from allocpolicy.record import asdict
from allocpolicy.registry import installed
from allocpolicy.registry.entry_points import Found
from allocpolicy.registry.installed import Loaded


class StrategyList(Lister):
    """List the installed strategies, including those that cannot be used."""

    takes_stevedore = True

    fields = ("name", "distribution", "version", "changes_existing", "summary")
    columns = (
        *(column("name"), column("distribution")),
        column("changes_existing", heading="CHANGES"),
        sentence("summary"),
    )

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        return [_row(found) for found in installed.find_all()]


class StrategyShow(ShowOne):
    """Show a strategy: where it is from, its options, and what it serves.

    For what it serves its plans are asked for, with its default options and with facts
    of typical storage: no disk is made.
    """

    takes_stevedore = True

    columns = fields = (
        *("name", "summary", "distribution", "version", "target", "api_version"),
        *("api_versions", "serves", "changes_existing", "exclusive", "migrates"),
        "options",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="an installed strategy")

    def show(self, arguments: argparse.Namespace) -> Data:
        loaded = self._loaded = installed.load(arguments.name)
        self._served = serving.of(loaded)
        found = loaded.found
        return {
            "name": found.name,
            "summary": loaded.summary,
            "distribution": found.distribution,
            "version": found.version,
            "target": found.target,
            "api_version": loaded.api_version,
            "api_versions": list(API_VERSIONS),
            "serves": [{**asdict(one), "served": one.served} for one in self._served],
            "changes_existing": _has_own(loaded, "amend"),
            "exclusive": _has_own(loaded, "exclusive"),
            "migrates": _has_own(loaded, "migrate"),
            "options": dict(loaded.options_schema),
        }

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        loaded = self._loaded
        found = loaded.found
        origin = " ".join(filter(None, (found.distribution, found.version)))
        yield f"{found.name}   {origin or 'unknown'}"
        accepted = ", ".join(map(str, API_VERSIONS))
        hooks = {"exclusive": "may hold a lock", "migrate": "reads older stamps"}
        named = {
            "summary": loaded.summary,
            "serves": serving.told(self._served),
            "target": found.target,
            "contract": f"version {loaded.api_version} (accepted: {accepted})",
            "besides": ", ".join(
                said for hook, said in hooks.items() if _has_own(loaded, hook)
            ),
        }
        yield from screen.pairs(named, width=width)
        yield from _options(loaded, width=width)


def _has_own(loaded: Loaded, hook: str) -> bool:
    """Return whether the strategy has a method of its own, not the contract's."""
    own, default = getattr(type(loaded.strategy), hook), getattr(Strategy, hook)
    return own is not default


def _row(found: Found) -> Data:
    """Return what is known of a strategy, and why it isn't usable if it isn't."""
    row: dict[str, object] = {
        "name": found.name,
        "distribution": found.distribution,
        "version": found.version,
    }
    try:
        loaded = installed.load(found.name)
    except Error as error:
        return row | {"changes_existing": None, "summary": f"not usable: {error}"}
    return row | {
        "changes_existing": _has_own(loaded, "amend"),
        "summary": loaded.summary,
    }


def _options(loaded: Loaded, *, width: int) -> Iterator[str]:
    """Yield each option as an extra spec writes it, and what it is for."""
    properties = loaded.options_schema.get("properties", {})
    assert isinstance(properties, dict)
    for name, schema in properties.items():
        yield ""
        written = f"  allocpolicy:{loaded.found.name}.{name} = {_allowed(schema)}"
        default = f"(default: {schema['default']})"
        yield from screen.sentence(f"{written} {default}", width=width, indent=6)
        if described := str(schema.get("description", "")):
            yield from screen.sentence(described, width=width, start="    ", indent=4)


def _allowed(schema: Mapping[str, object]) -> str:
    values = schema.get("enum")
    if isinstance(values, list):
        return " | ".join(map(str, values))
    return str(schema["type"])
