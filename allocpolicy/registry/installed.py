"""The installed strategies: found by entry point, loaded one at a time, checked.

They are the entry points that stevedore reads, and it loads them; finding them is done
here, as its cache outlives a reinstallation and its check for duplicates compares only
neighbours.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from allocpolicy import schema, wording
from allocpolicy.contract.strategy import API_VERSIONS, Strategy
from allocpolicy.errors import DuplicateStrategy, StrategyFailed, StrategyNotFound
from allocpolicy.record import dataclass
from allocpolicy.registry import entry_points, hooks, loading, option_schema
from allocpolicy.registry.blame import blaming
from allocpolicy.registry.entry_points import Found

GROUP = "allocpolicy.strategies"
RESERVED = "strategy"  # allocpolicy:strategy.root is not a strategy's option

_NAME = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A strategy that fulfils the contract, and its entry point.

    The summary and the schema were read once: a plugin may compute them. ``takes`` are
    the arguments of each hook.
    """

    found: Found
    strategy: Strategy
    api_version: int
    summary: str
    options_schema: Mapping[str, Any]
    takes: Mapping[str, frozenset[str]]


_added: list[Found] = []


def find_all() -> tuple[Found, ...]:
    """Return all claims to strategies' names, sorted, duplicates included.

    The result is cached until a directory in sys.path changes, as an installation does.
    """
    found = _find_all(tuple((place, _changed(place)) for place in sys.path))
    return tuple(sorted((*found, *_added), key=_order)) if _added else found


@contextlib.contextmanager
def added(found: Sequence[Found]) -> Iterator[None]:
    """Have further claims while the body runs; their modules are imported already."""
    _added.extend(found)
    try:
        yield
    finally:
        del _added[len(_added) - len(found) :]


def _changed(place: str) -> int | None:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return None


@functools.lru_cache(maxsize=1)
def _find_all(state: tuple[tuple[str, int | None], ...]) -> tuple[Found, ...]:
    return tuple(sorted(entry_points.of_group(GROUP), key=_order))


def names() -> tuple[str, ...]:
    """Return the names of the installed strategies, sorted, each once."""
    return tuple(dict.fromkeys(found.name for found in find_all()))


def find(name: str) -> Found:
    """Return the one entry point that claims ``name``.

    :raises StrategyNotFound: when none does.
    :raises DuplicateStrategy: when several do, even of one distribution.
    """
    installed = find_all()
    claims = [found for found in installed if found.name == name]
    if not claims:
        known = dict.fromkeys(found.name for found in installed)
        raise StrategyNotFound(name, wording.choices(known, nearest_to=name))
    if len(claims) > 1:
        raise DuplicateStrategy(name, tuple(map(str, claims)))
    return claims[0]


def load(name: str) -> Loaded:
    """Import the strategy ``name``, and no other, and check that it is usable.

    :raises StrategyNotFound: when no distribution has it.
    :raises DuplicateStrategy: when more than one has.
    :raises StrategyFailed: when its code raises or violates the contract.
    """
    found = find(name)
    if name == RESERVED or not _NAME.fullmatch(name):
        reason = "a name consists of a-z, 0-9, _ and -, and is not 'strategy'"
        raise StrategyFailed(name, str(found), "", reason)
    with blaming(found):
        try:
            return _checked(found, _instance(found))
        except schema.Invalid as error:
            reason = wording.bounded(str(error))
            raise StrategyFailed(name, str(found), "", reason) from error


def _order(found: Found) -> tuple[str, str, str, str]:
    return found.name, found.distribution, found.version, found.target


def _instance(found: Found) -> Strategy:
    """Import the target and call it."""
    strategy = loading.instance(found.name, found.target, group=GROUP)
    if not isinstance(strategy, Strategy):
        reason = f"{type(strategy).__name__} is not a subclass of allocpolicy.Strategy"
        raise StrategyFailed(found.name, str(found), "", reason)
    return strategy


def _checked(found: Found, strategy: Strategy) -> Loaded:
    api_version = _api_version(type(strategy))
    summary: object = getattr(strategy, "summary", None)
    if not isinstance(summary, str) or not summary.strip():
        raise schema.Invalid("it has no summary")
    if len(summary.splitlines()) > 1:
        raise schema.Invalid("its summary is longer than one line")
    options_schema = option_schema.plain(strategy.options_schema)
    option_schema.check(options_schema)
    assert isinstance(options_schema, dict)
    return Loaded(
        found=found,
        strategy=strategy,
        api_version=api_version,
        summary=wording.bounded(summary),
        options_schema=options_schema,
        takes=hooks.accepted(strategy),
    )


def _api_version(strategy: type[Strategy]) -> int:
    """Return the version of the contract that a class says it is written for.

    What it inherits from another distribution says nothing: that would change with what
    is installed.
    """
    package = strategy.__module__.partition(".")[0]
    own = (one for one in strategy.__mro__ if one.__module__.split(".")[0] == package)
    said = next((vars(one)["api_version"] for one in own if _says(one)), None)
    known = f"{API_VERSIONS.start} to {API_VERSIONS.stop - 1}"
    if len(API_VERSIONS) == 1:
        known = str(API_VERSIONS.start)
    if said is None:
        raise schema.Invalid(
            f"{strategy.__name__} does not say which version of the contract it is"
            f" written for: add api_version = {API_VERSIONS.stop - 1} to the class"
        )
    if type(said) is not int or said not in API_VERSIONS:
        raise schema.Invalid(
            f"it is written for version {said!r} of the contract; this allocpolicy"
            f" knows {known}"
        )
    return said


def _says(strategy: type) -> bool:
    return strategy is not Strategy and "api_version" in vars(strategy)
