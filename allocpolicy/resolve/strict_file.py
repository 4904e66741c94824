"""Reading a JSON or YAML file strictly: plain data, unique keys.

Duplicate keys, YAML aliases (bombs) and keys that are not strings are refused rather
than interpreted; errors are reported with line and column.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from allocpolicy.schema import Invalid

if TYPE_CHECKING:
    import yaml

SIZE_LIMIT = 4 * 1024 * 1024  # bytes; some ten thousand flavors


def read(path: Path) -> object:
    """Return the data in a file.

    :raises Invalid: when it cannot be read or is not valid, saying where.
    """
    try:
        return _parse(text(path), is_yaml=path.suffix in (".yaml", ".yml"))
    except RecursionError as error:
        raise Invalid("it is nested too deeply") from error


def text(path: Path) -> str:
    """Return the text of the file, which may be a pipe.

    :raises Invalid: when it cannot be read, is empty, or is no UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise Invalid(f"cannot be read: {error.strerror}") from error
    if len(content) > SIZE_LIMIT:
        raise Invalid(f"it is larger than {SIZE_LIMIT} bytes")
    return _decoded(content)


def _decoded(content: bytes) -> str:
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"it is not UTF-8 text (at byte {error.start})") from error
    if not decoded.strip():
        raise Invalid("it is empty")
    return decoded


def _parse(text: str, *, is_yaml: bool) -> object:
    """Parse what looks like JSON as JSON, for better messages, and all else as YAML."""
    if text.lstrip()[0] in "[{" and not is_yaml:
        return _parse_json(text)
    return _parse_yaml(text)


def json_of(text: str) -> object:
    """Return the data in a text.

    :raises Invalid: when a key appears twice in an object.
    :raises ValueError: when it is not valid (`json.JSONDecodeError`).
    """
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _parse_json(text: str) -> object:
    try:
        return json_of(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Invalid(f"{place}: not valid JSON: {error.msg}") from error
    except ValueError as error:  # a number of more than 4300 digits, or Invalid
        raise Invalid(str(error)) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise Invalid(f"the key {key!r} appears twice in one object")
        mapping[key] = value
    return mapping


def yaml_items(content: bytes) -> list[tuple[int, object]]:
    """Return the items of a list in YAML, each with its line.

    :raises Invalid: when it is no list, or not valid, saying where.
    """
    text = _decoded(content)
    with _yaml_errors():
        loader = _loader(text)
        node = loader.get_single_node()
        if node is None or node.id != "sequence":
            raise Invalid("it is no list")
        return [
            (one.start_mark.line + 1, loader.construct_document(one))
            for one in node.value
        ]


def _parse_yaml(text: str) -> object:
    with _yaml_errors():
        return cast(object, _loader(text).get_single_data())


def _loader(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Accepts plain data only: no aliases, no duplicate keys, string keys only."""

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

    return Loader(text)


@contextlib.contextmanager
def _yaml_errors() -> Iterator[None]:
    """Tell PyYAML's errors.

    :raises Invalid: instead of them.
    """
    import yaml

    try:
        yield
    except Invalid:
        raise
    except RecursionError as error:
        raise Invalid("it is nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or error.context
        raise Invalid(f"{place}not valid YAML: {problem}") from error
    except (yaml.YAMLError, ValueError, KeyError, OverflowError) as error:
        # PyYAML passes on the errors of int(), date() and its own tables.
        raise Invalid(
            f"not valid YAML: a value does not match its type: {error}"
        ) from error


def _check_keys(node: yaml.MappingNode, *, fail: Callable[..., Exception]) -> None:
    seen = set()
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:str":
            problem = f"the key {key.value!r} is not a string: put it in quotes"
            raise fail(problem=problem, problem_mark=key.start_mark)
        if key.value in seen:
            problem = f"the key {key.value!r} appears twice"
            raise fail(problem=problem, problem_mark=key.start_mark)
        seen.add(key.value)
