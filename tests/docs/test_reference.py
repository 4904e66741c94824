"""The reference has every public name, explained, with an example that runs."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.tool import load

if TYPE_CHECKING:
    from tools import reference
    from tools.reference import Example, Name
else:
    reference = load("reference")

NAMES = [
    name for module in reference.MODULES for name in reference.public_names(module)
]
EXAMPLES = reference.examples()
PAGE = reference.Page(examples=EXAMPLES).write()

every_name = pytest.mark.parametrize("name", NAMES, ids=lambda name: name.title)

# What is a size or another number of bytes by its name.
BYTES = re.compile(
    r"(\A|_)(bytes|compressed|delalloc|encoded|free|granularity|hole|length|minimum"
    r"|needed|shared|size|unmapped|unwritten|written)(\Z|_disk\Z)|reserved_host_disk"
    r"|data_offset|l2_cache_size|alignment\Z"
)
COUNTS = {"chain_length"}  # numbers of things


@every_name
def test_every_name_has_its_own_heading(name: Name) -> None:
    assert PAGE.splitlines().count(f"### `{name.title}`") == 1


@every_name
def test_every_name_is_explained(name: Name) -> None:
    if isinstance(name.node, ast.ClassDef | ast.FunctionDef):
        assert ast.get_docstring(name.node)
    else:
        assert name.source.says(name.node)


@every_name
def test_every_member_and_field_is_explained(name: Name) -> None:
    """By the classes as they are at run time, whatever the page's parser sees."""
    told = ast.get_docstring(name.node) if isinstance(name.node, ast.ClassDef) else None
    explained = {one.name for one in name.items if one.says}
    if name.is_error:  # a constructor may keep it by another name
        explained |= {*re.findall(r"``(\w+)``", told or "")}
    assert wanted(name.value) <= explained


def wanted(value: object) -> set[str]:
    """Return what is to be explained of a class: members, fields, attributes."""
    if not inspect.isclass(value):
        return set()
    if issubclass(value, enum.Enum):
        return set(value.__members__)
    if dataclasses.is_dataclass(value):
        found = {field.name for field in dataclasses.fields(value)}
    elif issubclass(value, BaseException):
        found = {*inspect.signature(value.__init__).parameters}
        found -= {"self", "args", "kwargs"}
    else:
        found = {*inspect.get_annotations(value)}
    return {one for one in found if reference.is_public(one)}


@every_name
def test_sizes_name_their_unit(name: Name) -> None:
    for one in name.items:
        of_bytes = BYTES.search(one.name) and one.name not in COUNTS
        if of_bytes and re.match(r"(int|Size)\b", one.type):
            assert re.search(r"\bbytes\b", one.says), one


@every_name
def test_every_name_is_used_by_an_example(name: Name) -> None:
    assert [one for one in EXAMPLES if name in one]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.path.stem)
def test_every_example_runs(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of the result, it asserts."""
    monkeypatch.chdir(tmp_path)
    assert "assert " in example.text
    runpy.run_path(str(example.path), run_name="__main__")


def test_exit_statuses_are_told() -> None:
    for name in NAMES:
        if name.is_error and hasattr(name.value, "exit_status"):
            section = PAGE.split(f"### `{name.title}`\n")[1].split("\n### ")[0]
            assert f"exit status {name.value.exit_status}" in section


def test_a_man_page_tells_the_same_statuses() -> None:
    """docutils, which writes it, is in few environments."""
    tree = ast.parse((reference.ROOT / "tools" / "man_pages.py").read_text())
    (value,) = (
        ast.literal_eval(one.value)
        for one in tree.body
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "STATUSES"
    )
    page = (reference.ROOT / "docs" / "reference" / "errors.md").read_text()
    assert [status for status, _ in value] == re.findall(
        r"(?m)^\| (\d[\d, ]*) \|", page
    )
