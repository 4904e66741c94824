"""Flavors and their extra specs, read from a file.

The file is YAML or JSON as in schemas/flavors.json, or the unchanged output of
``openstack flavor list --long -f json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allocpolicy import schema, wording
from allocpolicy.errors import FlavorError
from allocpolicy.resolve import strict_file
from allocpolicy.schema import Invalid

# k1='v1', k2='v2': python-openstackclient before 5.0. Quotes inside a value are not
# escaped: a value ends before the next key or at the end of the text.
_PROPERTY = re.compile(
    r"([^=', ][^=',]*)='(.*?)'(?:, (?=[^=', ][^=',]*=')|$)", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """A flavor; ``source`` is the file from which it was read."""

    name: str
    extra_specs: Mapping[str, str]
    source: Path
    id: str | None = None
    description: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"flavor {self.name} in {self.source}"


def load_flavors(path: Path) -> dict[str, Flavor]:
    """Return the flavors in a file by name, in the file's order.

    :raises FlavorError: when the file cannot be read or is not valid, saying where.
    """
    try:
        content = strict_file.read(path)
        if isinstance(content, list):
            return _openstack_flavors(content, path=path)
        return _own_flavors(content, path=path)
    except Invalid as error:
        raise FlavorError(path, " ".join(str(error).split())) from error


def flavor(path: Path, *, name: str) -> Flavor:
    """Return the flavor with a name, or else an ID, from a file.

    :raises FlavorError: when there is none, or the file is not valid.
    """
    flavors = load_flavors(path)
    if name in flavors:
        return flavors[name]
    for one in flavors.values():
        if one.id == name:
            return one
    reason = f"no flavor {name!r}; {wording.choices(flavors, nearest_to=name)}"
    raise FlavorError(path, reason)


def _own_flavors(content: object, *, path: Path) -> dict[str, Flavor]:
    problems = schema.validate(content, schema=schema.load("flavors"))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Invalid(problems[0] + more)
    assert isinstance(content, dict)
    return {
        name: Flavor(
            name=name,
            extra_specs=one.get("extra_specs", {}),
            source=path,
            description=one.get("description", ""),
        )
        for name, one in content["flavors"].items()
    }


def _openstack_flavors(rows: list[Any], *, path: Path) -> dict[str, Flavor]:
    flavors: dict[str, Flavor] = {}
    for index, row in enumerate(rows):
        try:
            one = _openstack_flavor(row, path=path)
        except Invalid as error:
            raise Invalid(f"$[{index}]: {error}") from error
        if one.name in flavors:
            raise Invalid(f"$[{index}]: a second flavor {one.name!r}")
        flavors[one.name] = one
    return flavors


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
        match = _PROPERTY.match(text, end)
        if match is None:
            raise Invalid(f"Properties: expected k='v', k='v', …: {text[end:][:80]}")
        properties[match[1]], end = match[2], match.end()
    return properties
