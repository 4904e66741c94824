"""The public API: one list, whoever reads it."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import allocpolicy

STUB = Path(allocpolicy.__file__).with_suffix(".pyi")
DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "api.md"
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
    assert dir(allocpolicy) == sorted([*LISTED, "commands", "testing"])
    for module in (getattr(allocpolicy, name) for name in ("testing", "commands")):
        assert {*vars(module)["__all__"]} <= {*dir(module)}


COMPLETING = """
import rlcompleter, sys
import allocpolicy
assert "allocpolicy.contract.policy" not in sys.modules
complete = rlcompleter.Completer({"allocpolicy": allocpolicy}).complete
for begun in sys.argv[1:]:
    found = []
    while (one := complete(begun, len(found))) is not None:
        found.append(one.rstrip("()"))
    print(*found)
"""


def test_a_shell_completes_what_was_not_imported_yet() -> None:
    begun = {
        "allocpolicy.load_f": "allocpolicy.load_flavors",
        "allocpolicy.Pol": "allocpolicy.Policy",
        "allocpolicy.testi": "allocpolicy.testing",
        "allocpolicy.testing.Dam": "allocpolicy.testing.Damage",
    }
    command = [sys.executable, "-c", COMPLETING, *begun]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout.splitlines() == [*begun.values()]


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'provison'"):
        getattr(allocpolicy, "provison")  # noqa: B009


def test_every_error_is_public() -> None:
    """A program can name what it catches."""

    def below(error: type[allocpolicy.Error]) -> set[str]:
        return {error.__name__}.union(*map(below, error.__subclasses__()))

    assert below(allocpolicy.Error) <= {*NAMES}


def test_the_package_can_be_imported_from_a_zip_file(tmp_path: Path) -> None:
    archive = tmp_path / "packages.zip"
    package = Path(allocpolicy.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*.py*"):
            file.write(path, path.relative_to(package.parent))
    program = (
        f"import sys; sys.path.insert(0, {str(archive)!r}); import allocpolicy;"
        "print(allocpolicy.__file__, allocpolicy.Error.__name__)"
    )
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout.split() == [f"{archive}/allocpolicy/__init__.py", "Error"]


def test_reports_are_values(tmp_path: Path) -> None:
    """Equal selections are equal, also after pickling; their strategy is shown."""
    order = allocpolicy.Order(
        destination=tmp_path / "disk", virtual_size=1 << 20, dry_run=True
    )
    first, second = (
        allocpolicy.provision(order, policy=allocpolicy.Policy()) for _ in range(2)
    )
    assert first.requested == second.requested
    assert pickle.loads(pickle.dumps(first)) == first
    assert "strategy='none'" in repr(first.requested)


@pytest.mark.parametrize("jobs", [0, -1])
def test_an_audit_needs_a_process(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(allocpolicy.InvalidRequest, match="at least one"):
        allocpolicy.audit([tmp_path], policy=allocpolicy.Policy(), jobs=jobs)
