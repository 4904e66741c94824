"""Flavors and their extra specs, read from a file.

The file is YAML or JSON after schemas/flavors.json, or what ``openstack flavor list
--long -f json`` prints, unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from allocpolicy import schema, wording
from allocpolicy.errors import FlavorError
from allocpolicy.schema import Invalid

if TYPE_CHECKING:
    import yaml

SIZE_LIMIT = 4 * 1024 * 1024  # bytes; some ten thousand flavors

# k1='v1', k2='v2': python-openstackclient before 5.0. A quote inside a value is not
# escaped, so that a value ends where the next key or nothing follows.
_PROPERTY = re.compile(
    r"([^=', ][^=',]*)='(.*?)'(?:, (?=[^=', ][^=',]*=')|$)", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """A flavor; ``source`` is the file that it was read from."""

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
        content = _parse(_read(path), is_yaml=path.suffix in (".yaml", ".yml"))
        if isinstance(content, list):
            return _openstack_flavors(content, path=path)
        return _own_flavors(content, path=path)
    except Invalid as error:
        raise FlavorError(path, " ".join(str(error).split())) from error
    except RecursionError as error:
        raise FlavorError(path, "it is nested too deeply") from error


def flavor(path: Path, *, name: str) -> Flavor:
    """Return the flavor of that name, or else of that ID, from a file.

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


def _read(path: Path) -> str:
    """Return the file's text; a pipe will do."""
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise FlavorError(path, f"cannot be read: {error.strerror}") from error
    if len(content) > SIZE_LIMIT:
        raise Invalid(f"it is larger than {SIZE_LIMIT} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"it is not UTF-8 text (at byte {error.start})") from error
    if not text.strip():
        raise Invalid("it is empty")
    return text


def _parse(text: str, *, is_yaml: bool) -> object:
    """Parse what looks like JSON as JSON, for its better messages, else YAML."""
    if text.lstrip()[0] in "[{" and not is_yaml:
        return _parse_json(text)
    return _parse_yaml(text)


def _parse_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Invalid(f"{place}: not valid JSON: {error.msg}") from error
    except ValueError as error:  # a number of more than 4300 digits, or Invalid
        raise Invalid(str(error)) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise Invalid(f"the key {key!r} is there twice in one object")
        mapping[key] = value
    return mapping


def _parse_yaml(text: str) -> object:
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes plain data only: no aliases (bombs), duplicate or non-string keys."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
                problem = "aliases are refused; write the value again"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
            return super().compose_node(parent, index)

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            _check_keys(node, fail=yaml.MarkedYAMLError)
            return node

    try:
        return cast(object, Loader(text).get_single_data())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or error.context
        raise Invalid(f"{place}not valid YAML: {problem}") from error
    except (yaml.YAMLError, ValueError, KeyError, OverflowError) as error:
        # PyYAML lets the errors of int(), date() and its own tables through.
        raise Invalid(
            f"not valid YAML: a value is none of its type: {error}"
        ) from error


def _check_keys(node: yaml.MappingNode, *, fail: Callable[..., Exception]) -> None:
    seen = set()
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:str":
            problem = f"the key {key.value!r} is not a string: put it in quotes"
            raise fail(problem=problem, problem_mark=key.start_mark)
        if key.value in seen:
            problem = f"the key {key.value!r} is there twice"
            raise fail(problem=problem, problem_mark=key.start_mark)
        seen.add(key.value)


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
            if one.name in flavors:
                raise Invalid(f"a second flavor {one.name!r}")
        except Invalid as error:
            raise Invalid(f"$[{index}]: {error}") from error
        flavors[one.name] = one
    return flavors


def _openstack_flavor(row: object, *, path: Path) -> Flavor:
    if not isinstance(row, dict) or not isinstance(row.get("Name"), str):
        raise Invalid('not an object with a "Name", as openstack flavor list has it')
    if "Properties" not in row:
        raise Invalid('no "Properties"; write the file by flavor list --long -f json')
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
