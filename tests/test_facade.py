"""The public API: one list, whoever reads it."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

import allocpolicy

STUB = Path(allocpolicy.__file__).with_suffix(".pyi")
DOCUMENT = Path(__file__).parents[1] / "docs" / "api.md"
LISTED: list[str] = vars(allocpolicy)["__all__"]
NAMES = sorted({*LISTED} - {"__version__"})


def stub_names() -> list[str]:
    """Return what the stub declares, by Python's own parser."""
    imports = [
        alias.asname
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return sorted(filter(None, imports))


def documented_names() -> list[str]:
    """Return the names in the first column of the tables."""
    cells = re.findall(r"^\|(.*?)\|", DOCUMENT.read_text(), re.MULTILINE)
    return sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell))


def test_stub_and_list_are_the_same() -> None:
    assert stub_names() == NAMES


def test_every_name_is_documented_once_and_nothing_else() -> None:
    assert documented_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_what_it_says(name: str) -> None:
    """It is importable, lives where the stub says, and pickles by that place."""
    value = getattr(allocpolicy, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__name__ == name
        assert f"from {value.__module__} import {name} as {name}" in STUB.read_text()
        assert pickle.loads(pickle.dumps(value)) is value


def test_a_star_import_brings_every_name() -> None:
    namespace: dict[str, object] = {}
    exec("from allocpolicy import *", namespace)
    assert {*NAMES, "__version__"} == namespace.keys() - {"__builtins__"}


def test_dir_shows_every_name_and_nothing_else() -> None:
    assert dir(allocpolicy) == sorted(LISTED)


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'provison'"):
        getattr(allocpolicy, "provison")  # noqa: B009


def test_every_error_is_public() -> None:
    """A program can name what it catches."""

    def below(error: type[allocpolicy.Error]) -> set[str]:
        return {error.__name__}.union(*map(below, error.__subclasses__()))

    assert below(allocpolicy.Error) <= {*NAMES}
