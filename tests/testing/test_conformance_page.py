"""docs/reference/conformance.md against the suite."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allocpolicy import testing
from allocpolicy.testing.laws import laws

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "conformance.md").read_text(
    "utf-8"
)


def test_every_law_is_listed_as_it_says_itself() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert dict(rows) == {law.name: law.says for law in laws()}
    assert len(rows) == len(laws())


def test_every_public_name_is_listed_and_no_other() -> None:
    table = PAGE.partition("## Means for tests")[2]
    cells = re.findall(r"^\|(.*?)\|", table, re.MULTILINE)
    words = {"StrategyConformance", *re.findall(r"`(\w+)", " ".join(cells))}
    assert words == {*vars(testing)["__all__"]}


def test_no_public_name_is_a_modules() -> None:
    """Importing the module would put it in the name's place."""
    modules = {path.stem for path in Path(testing.__file__).parent.iterdir()}
    assert not modules & {*vars(testing)["__all__"]}


@pytest.mark.parametrize(
    "block", re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
)
def test_every_example_runs(block: str) -> None:
    exec(
        compile(block, "docs/reference/conformance.md", "exec"), {"__name__": "example"}
    )
