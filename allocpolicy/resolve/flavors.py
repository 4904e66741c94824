"""Flavors and their extra specs, read from a file.

The file is YAML or JSON as in schemas/flavors.json, or the unchanged output of
``openstack flavor list --long -f json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocpolicy import arguments, schema, wording
from allocpolicy.arguments import Size, StrPath
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import FlavorError
from allocpolicy.fields import fit_fields
from allocpolicy.record import dataclass, field
from allocpolicy.resolve import flavor_sizes, strict_file
from allocpolicy.schema import Invalid

# k1='v1', k2='v2': python-openstackclient before 5.0. Quotes inside a value are not
# escaped: a value ends before the next key or at the end of the text.
_PROPERTY = r"(?s)([^=', ][^=',]*)='(.*?)'(?:, (?=[^=', ][^=',]*=')|$)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """A flavor: a name, and what it says of disks."""

    name: str  #: the flavor's name
    extra_specs: Mapping[str, str]  #: its keys and values; those of other programs, too
    source: Path  #: the file from which it was read
    id: str | None = None  #: the flavor's id; None: the file has none
    description: str = field(default="", compare=False)  #: the file's words about it
    #: the sizes of its disks in bytes, where it has a say; 0: it has no such disk, and
    #: the root disk its base image's
    sizes: Mapping[DiskRole, Size] = field(default_factory=dict)
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self,
            *,
            name: str,
            extra_specs: Mapping[str, str],
            source: StrPath,
            id: str | None = ...,
            description: str = ...,
            sizes: Mapping[DiskRole, int | str] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)

    def size_of(self, disk_role: DiskRole) -> int | None:
        """Return the size of a disk in bytes; None if the flavor leaves it open.

        :raises InvalidRequest: when the flavor has no such disk.
        """
        return flavor_sizes.of_disk(self.sizes, disk_role=disk_role, flavor=str(self))

    def __str__(self) -> str:
        return f"flavor {self.name} in {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A flavor as it is in a file; it is None if there is a ``problem`` with it."""

    name: str
    flavor: Flavor | None = None
    problem: str | None = None


def load_flavors(path: StrPath) -> dict[str, Flavor]:
    """Return the flavors in a file by name, in the file's order.

    :raises FlavorError: when the file cannot be read or is not valid, saying where.
    """
    path, flavors = arguments.path(path, "path"), {}
    for entry in entries(path):
        if entry.flavor is None:
            raise FlavorError(path, f"{entry.problem}")
        flavors[entry.name] = entry.flavor
    return flavors


def entries(path: Path) -> tuple[Entry, ...]:
    """Return all flavors in a file, in its order, also those that are not valid.

    :raises FlavorError: when the file cannot be read or is not a flavors file.
    """
    try:
        content = strict_file.read(path)
        if isinstance(content, list):
            return tuple(_openstack_entries(content, path=path))
        return tuple(_own_entries(content, path=path))
    except Invalid as error:
        raise FlavorError(path, " ".join(str(error).split())) from error


def flavor(path: Path, *, name: str) -> Flavor:
    """Return the flavor with a name, or else an ID, from a file.

    :raises FlavorError: when there is none, or the file is not valid.
    """
    return chosen(load_flavors(path), name=name, path=path)


def chosen(flavors: Mapping[str, Flavor], *, name: str, path: Path) -> Flavor:
    """Return the flavor with a name, or else an ID, of those of a file.

    :raises FlavorError: when there is none.
    """
    if name in flavors:
        return flavors[name]
    for one in flavors.values():
        if one.id == name:
            return one
    reason = f"no flavor {name!r}; {wording.choices(flavors, nearest_to=name)}"
    raise FlavorError(path, reason)


def _own_entries(content: object, *, path: Path) -> Iterator[Entry]:
    problems = _problems(content)
    if problems.get(None) or not isinstance(content, dict):
        raise Invalid(_first(problems[None]))
    for name, one in content["flavors"].items():
        if name in problems:
            yield Entry(name=name, problem=_first(problems[name]))
            continue
        yield _own_entry(name, one, path=path)


def _own_entry(name: str, one: Mapping[str, Any], *, path: Path) -> Entry:
    try:
        sizes = flavor_sizes.of_file(one.get("sizes", {}))
    except Invalid as error:
        return Entry(name=name, problem=f"$.flavors.{name}: {error}")
    flavor = Flavor(
        name=name,
        extra_specs=one.get("extra_specs", {}),
        source=path,
        description=one.get("description", ""),
        sizes=sizes,
    )
    return Entry(name=name, flavor=flavor)


def _problems(content: object) -> dict[str | None, list[str]]:
    """Return what is wrong with each flavor, and with the whole file (None)."""
    found: dict[str | None, list[str]] = {}
    errors = schema.errors(content, schema=schema.load("flavors"))
    for error in sorted(errors, key=lambda one: schema.place(one.path)):
        told = f"{schema.place(error.path)}: {schema.message(error)}"
        name = str(error.path[1]) if len(error.path) > 1 else None
        found.setdefault(name, []).append(told)
    return found


def _first(problems: list[str]) -> str:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0] + more


def _openstack_entries(rows: list[Any], *, path: Path) -> Iterator[Entry]:
    seen: set[str] = set()
    for index, row in enumerate(rows):
        try:
            one = _openstack_flavor(row, path=path)
        except Invalid as error:
            yield Entry(name=_name(row, index), problem=f"$[{index}]: {error}")
            continue
        if one.name in seen:
            problem = f"$[{index}]: a second flavor {one.name!r}"
            yield Entry(name=one.name, problem=problem)
        else:
            seen.add(one.name)
            yield Entry(name=one.name, flavor=one)


def _name(row: object, index: int) -> str:
    """Return the name of a flavor that is not valid, or its place in the file."""
    name = row.get("Name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else f"$[{index}]"


def _openstack_flavor(row: object, *, path: Path) -> Flavor:
    if not isinstance(row, dict) or not isinstance(row.get("Name"), str):
        raise Invalid('not an object with a "Name", as openstack flavor list has it')
    if "Properties" not in row:
        raise Invalid(
            'no "Properties"; use the output of openstack flavor list --long -f json'
        )
    return Flavor(
        name=row["Name"],
        extra_specs=_properties(row["Properties"]),
        source=path,
        id=str(row["ID"]) if "ID" in row else None,
        description=str(row.get("Description") or ""),
        sizes=flavor_sizes.of_openstack(row),
    )


def _properties(properties: object) -> dict[str, str]:
    if not properties:
        return {}
    if isinstance(properties, str):
        return _properties_of_text(properties)
    if not isinstance(properties, dict):
        raise Invalid("Properties is neither an object nor a string")
    for key, value in properties.items():
        if not isinstance(value, str):
            raise Invalid(f"Properties: the value of {key!r} is not a string")
    return properties


def _properties_of_text(text: str) -> dict[str, str]:
    properties, end = {}, 0
    while end < len(text):
        match = re.compile(_PROPERTY).match(text, end)
        if match is None:
            raise Invalid(f"Properties: expected k='v', k='v', …: {text[end:][:80]}")
        properties[match[1]], end = match[2], match.end()
    return properties
