"""The map: a file that says the format and the policy of disks by their paths.

For disks that have no stamp, as those of a host that was there before: YAML or JSON as
in schemas/map.json. The first entry whose pattern matches a path says everything; a
relative pattern begins at the file's directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn, cast

from allocpolicy import wording
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice, DiskRole
from allocpolicy.errors import Error, InvalidRequest
from allocpolicy.record import dataclass
from allocpolicy.resolve import glob, strict_file
from allocpolicy.resolve.extra_specs import NAMESPACE, STRATEGY
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.glob import Glob
from allocpolicy.resolve.selection import Selection, resolve
from allocpolicy.schema import Invalid

KEYS = (
    *("path", "format", "force"),
    *("strategy", "options", "flavor", "extra_specs", "disk"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the map says of the disks whose paths match a pattern."""

    place: str  #: where it is in the file, and its pattern, in words
    glob: Glob  #: the pattern
    format: DiskFormat  #: the format that they have
    force: bool  #: believe that, whatever their content looks like
    disk_role: DiskRole  #: which of an instance's disks they are
    flavor: Flavor | None  #: the flavor that decides; None: the specs do
    extra_specs: Mapping[str, str]  #: add to the flavor's, or override them
    selection: Selection  #: the policy that comes of these

    @property
    def choice(self) -> Choice:
        """Return the strategy that judges them."""
        return Choice(strategy=self.selection.strategy, options=self.selection.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskMap:
    """The entries of a map, in the file's order."""

    source: Path  #: the file
    entries: tuple[Entry, ...]

    def entry(self, path: Path) -> Entry | None:
        """Return the first that matches a path without symbolic links, or None."""
        return next((one for one in self.entries if one.glob.matches(path)), None)

    def unused(self, disks: Iterable[Path]) -> Iterator[str]:
        """Yield in words which entries are the first of none of the disks."""
        used = {one.place for disk in disks if (one := self.entry(disk)) is not None}
        for one in self.entries:
            if one.place not in used:
                head, exact = one.glob.head, not one.glob.segments
                below = f"; {one.glob.below} is what is in it"
                hint = below if exact and os.path.isdir(head) else ""
                yield f"{self.source}: {one.place}: no disk has it first{hint}"


def read(
    path: Path, *, policy: Policy, flavors: Mapping[str, Flavor] | None
) -> DiskMap:
    """Return the map in a file.

    :param flavors: those that entries may name; None: no file was given.
    :raises InvalidRequest: when it can't be read, or an entry isn't right; the message
        names the file, the entry and the key.
    """
    start = Path(os.path.realpath(path)).parent
    try:
        entries = tuple(
            _entry(one, number=number, start=start, policy=policy, flavors=flavors)
            for number, one in enumerate(_listed(strict_file.read(path)))
        )
    except Invalid as error:
        raise InvalidRequest(f"map {path}: {' '.join(str(error).split())}") from error
    return DiskMap(source=path, entries=entries)


def _listed(content: object) -> list[object]:
    if not isinstance(content, dict) or set(content) != {"disks"}:
        raise Invalid('expected an object with one key, "disks"')
    disks = content["disks"]
    if not isinstance(disks, list) or not disks:
        raise Invalid("disks: expected a list of objects, and not an empty one")
    return disks


def _entry(
    one: object,
    *,
    number: int,
    start: Path,
    policy: Policy,
    flavors: Mapping[str, Flavor] | None,
) -> Entry:
    place = f"disks[{number}]"
    if not isinstance(one, dict):
        raise Invalid(f"{place}: expected an object, with the keys {', '.join(KEYS)}")
    place += f" ({one['path']!r})" if isinstance(one.get("path"), str) else ""
    try:
        return _checked(one, place=place, start=start, policy=policy, flavors=flavors)
    except (Invalid, Error) as error:
        raise Invalid(f"{place}: {error}") from error


def _checked(
    one: Mapping[str, object],
    *,
    place: str,
    start: Path,
    policy: Policy,
    flavors: Mapping[str, Flavor] | None,
) -> Entry:
    for key in one:
        if key not in KEYS:
            raise Invalid(
                f"{key}: no such key; {wording.choices(KEYS, nearest_to=key)}"
            )
    pattern = _text(one, "path")
    try:
        matched = glob.parse(pattern, start=start)
    except Invalid as error:
        raise Invalid(f"path: {error}") from error
    chosen = _flavor(one, flavors) if "flavor" in one else None
    specs = _specs(one)
    role = DiskRole(_word(one, "disk", DiskRole)) if "disk" in one else DiskRole.ROOT
    if chosen is None and not specs:
        raise Invalid("it has no policy: strategy, flavor or extra_specs")
    return Entry(
        place=place,
        glob=matched,
        format=DiskFormat(_word(one, "format", DiskFormat)),
        force=_is_forced(one),
        disk_role=role,
        flavor=chosen,
        extra_specs=specs,
        selection=resolve(
            policy=policy, disk_role=role, flavor=chosen, overrides=specs
        ),
    )


def _text(one: Mapping[str, object], key: str) -> str:
    if key not in one:
        raise Invalid(f"{key}: it is missing")
    value = one[key]
    if not isinstance(value, str):
        _refuse(key, value, "a string")
    return value


def _word(one: Mapping[str, object], key: str, words: Iterable[str]) -> str:
    value, allowed = _text(one, key), tuple(map(str, words))
    if value not in allowed:
        raise Invalid(f"{key}: {value!r}; {wording.choices(allowed, nearest_to=value)}")
    return value


def _is_forced(one: Mapping[str, object]) -> bool:
    value = one.get("force", False)
    if not isinstance(value, bool):
        _refuse("force", value, "true or false")
    return value


def _flavor(one: Mapping[str, object], flavors: Mapping[str, Flavor] | None) -> Flavor:
    name = _text(one, "flavor")
    if flavors is None:
        raise Invalid(f"flavor: {name!r}: give the file of flavors with --flavors")
    if name not in flavors:
        known = wording.choices(flavors, nearest_to=name)
        raise Invalid(f"flavor: {name!r} is not in the file; {known}")
    return flavors[name]


def _specs(one: Mapping[str, object]) -> dict[str, str]:
    """Return the extra specs that strategy, options and extra_specs come to."""
    found, own = _extra_specs(one), _of_strategy(one)
    for key in own:
        if key in found:
            raise Invalid(f"extra_specs.{key}: strategy and options say it as well")
    return found | own


def _extra_specs(one: Mapping[str, object]) -> dict[str, str]:
    specs = _mapping(one, "extra_specs")
    if not specs and "extra_specs" in one:
        raise Invalid("extra_specs: there are none in it")
    for key, value in specs.items():
        if not isinstance(value, str):
            _refuse(f"extra_specs.{key}", value, "a string")
    return cast(dict[str, str], dict(specs))


def _of_strategy(one: Mapping[str, object]) -> dict[str, str]:
    """Return the extra specs that say a strategy and its options."""
    options = _mapping(one, "options")
    if "strategy" not in one:
        if options:
            raise Invalid("options: they are those of strategy, which is missing")
        return {}
    name = _text(one, "strategy")
    return {STRATEGY: name} | {
        f"{NAMESPACE}{name}.{option}": _spelt(f"options.{option}", value)
        for option, value in options.items()
    }


def _mapping(one: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = one.get(key, {})
    if not isinstance(value, dict):
        _refuse(key, value, "an object")
    return value


def _spelt(key: str, value: object) -> str:
    """Return an option's value as extra specs spell it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        _refuse(key, value, "a string, a number, true or false")
    return str(value)


def _refuse(key: str, value: object, wanted: str) -> NoReturn:
    raise Invalid(f"{key}: expected {wanted}, not {wording.named(value)}")
