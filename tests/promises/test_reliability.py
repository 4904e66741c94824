"""The page on reliability promises nothing without a test, and names none in vain."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "explanation" / "reliability.md"
SECTION = "## What we promise\n"


def section() -> str:
    """Return the text below the heading, up to the next of its rank."""
    text = PAGE.read_text(encoding="utf-8").partition(SECTION)[2]
    return re.split(r"^## ", text, flags=re.MULTILINE)[0]


def rows() -> Iterator[tuple[str, str]]:
    """Yield each promise, and the cell with its tests."""
    for line in section().splitlines():
        if line.startswith("|") and line not in {"| promise | tests |", "|---|---|"}:
            promise, tests = line.strip("|").split("|")
            yield promise.strip(), tests.strip()


def named() -> list[str]:
    """Return every test that the page names."""
    return [test for _, cell in rows() for test in re.findall(r"`([^`]+)`", cell)]


@functools.cache
def collected_in(path: Path) -> frozenset[str]:
    """Return the names of a module's tests, those of its classes too."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
            found |= {f"{node.name}::{one.name}" for one in methods}
            if node.bases:  # StrategyConformance has the test
                found.add(f"{node.name}::test_law")
    return frozenset(name for name in found if "test_" in name)


def test_everything_that_is_said_there_is_a_promise_with_its_test() -> None:
    """Outside the tables there are headings only: no sentence goes without a test."""
    lines = [line for line in section().splitlines() if line]
    assert [line for line in lines if not line.startswith(("|", "### "))] == []
    assert len(list(rows())) >= 50
    for promise, cell in rows():
        assert re.fullmatch(r"`[^`]+`(, `[^`]+`)*", cell), promise


@pytest.mark.parametrize("promise", [promise for promise, _ in rows()])
def test_a_promise_is_one_sentence(promise: str) -> None:
    """Promises are counted, not lines."""
    assert promise[0].isupper() or promise[0] == "`"
    assert promise.endswith(".")
    assert len(re.findall(r"[.;](\s|$)", promise)) == 1


def test_no_promise_is_made_twice() -> None:
    """The count is that of different promises."""
    promises = [promise for promise, _ in rows()]
    assert len(promises) == len(set(promises))


@pytest.mark.parametrize("test", sorted(set(named())))
def test_a_test_that_is_named_exists(test: str) -> None:
    """It is a function that pytest collects, in a module that pytest collects."""
    module, _, name = test.partition("::")
    assert Path(module).name.startswith("test_")
    assert name in collected_in(TESTS / module)
