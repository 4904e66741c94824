"""Reading a JSON or YAML file strictly: plain data, unique keys.

Duplicate keys, YAML aliases (bombs) and keys that are not strings are refused rather
than interpreted; errors are reported with line and column.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from allocpolicy.record import dataclass
from allocpolicy.schema import Invalid

if TYPE_CHECKING:
    import yaml

SIZE_LIMIT = 4 * 1024 * 1024  # bytes; some ten thousand flavors
# An item of a list that isn't in brackets, whose lines are indented but for the first;
# and what may be before such a list.
_ITEM = re.compile(r"^-(?=[ \t\r\n])", re.MULTILINE)
_COMMENTS = re.compile(r"(?:(?:#|%|---(?=\s)).*\n|[ \t\r]*\n)*")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An item of a list: the line that it begins in, its data, or why it has none."""

    line: int
    data: object = None
    problem: str = ""


def yaml_items(content: bytes) -> list[Item]:
    """Return the items of a list in YAML; one that is not valid harms no other.

    :raises Invalid: when it is no list, or it can't be seen where an item begins.
    """
    text = _decoded(content)
    try:
        return _yaml_items(text)
    except Invalid:
        parts = list(_ITEM.finditer(text))
        if not parts or _COMMENTS.fullmatch(text, 0, parts[0].start()) is None:
            raise
    return list(_each_alone(text, [one.start() for one in parts]))


def _each_alone(text: str, starts: Sequence[int]) -> Iterator[Item]:
    """Yield the items of a list that as a whole is not valid."""
    line = 1 + text.count("\n", 0, starts[0])
    for start, end in itertools.pairwise([*starts, len(text)]):
        part = text[start:end]
        try:
            yield from _yaml_items(part, before=line - 1)
        except Invalid as error:
            yield Item(line=line, problem=str(error))
        line += part.count("\n")


def _yaml_items(text: str, *, before: int = 0) -> list[Item]:
    """Return the items of a list, some of which may break our rules.

    :param before: how many lines there are before the text.
    :raises Invalid: when it is no list, or not valid.
    """
    problems: list[Any] = []
    with _yaml_errors(before=before):
        loader = _loader(text, refuse=problems.append)
        node = loader.get_single_node()
        if node is None or node.id != "sequence":
            raise Invalid("it is no list")
    starts = [one.start_mark.index for one in node.value]
    broken = {
        bisect.bisect_right(starts, one.problem_mark.index) - 1: one
        # The first of an item is told.
        for one in sorted(problems, key=lambda one: -one.problem_mark.index)
    }
    return [
        _item(loader, one, broken.get(number), before=before)
        for number, one in enumerate(node.value)
    ]


def _item(loader: Any, node: Any, broken: Exception | None, *, before: int) -> Item:
    line = node.start_mark.line + 1 + before
    try:
        with _yaml_errors(before=before):
            if broken is not None:
                raise broken
            return Item(line=line, data=loader.construct_document(node))
    except Invalid as error:
        return Item(line=line, problem=str(error))


def _parse_yaml(text: str) -> object:
    with _yaml_errors():
        return cast(object, _loader(text).get_single_data())


def _raised(error: Exception) -> None:
    raise error


def _loader(text: str, *, refuse: Callable[[Exception], None] = _raised) -> Any:
    """Return what loads the text.

    :param refuse: gets each error that is a breach of our rules, not of YAML's.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Accepts plain data only: no aliases, no duplicate keys, string keys only."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
                problem = "aliases are refused; write the value again"
                refuse(yaml.MarkedYAMLError(problem=problem, problem_mark=mark))
                return yaml.ScalarNode("tag:yaml.org,2002:str", "", mark, mark)
            return super().compose_node(parent, index)

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            for problem, mark in _bad_keys(node):
                refuse(yaml.MarkedYAMLError(problem=problem, problem_mark=mark))
            return node

    return Loader(text)


@contextlib.contextmanager
def _yaml_errors(*, before: int = 0) -> Iterator[None]:
    """Tell PyYAML's errors.

    :param before: how many lines there are before the text.
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
        place = (
            f"line {mark.line + 1 + before}, column {mark.column + 1}: " if mark else ""
        )
        problem = error.problem or error.context
        raise Invalid(f"{place}not valid YAML: {problem}") from error
    except (yaml.YAMLError, ValueError, KeyError, OverflowError) as error:
        # PyYAML passes on the errors of int(), date() and its own tables.
        raise Invalid(
            f"not valid YAML: a value does not match its type: {error}"
        ) from error


def _bad_keys(node: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    """Yield what is wrong with the keys of a mapping, and where."""
    seen = set()
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:str":
            yield (
                f"the key {key.value!r} is not a string: put it in quotes",
                key.start_mark,
            )
        elif key.value in seen:
            yield f"the key {key.value!r} appears twice", key.start_mark
        else:
            seen.add(key.value)
