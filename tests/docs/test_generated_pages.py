"""What the site's generated pages are written from explains itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from allocpolicy import errors
from tests.harness.tool import load

if TYPE_CHECKING:
    from tools import error_page, schema_page, strategy_page
else:
    error_page, schema_page, strategy_page = map(
        load, ("error_page", "schema_page", "strategy_page")
    )

DOCUMENTS = schema_page.documents()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.path.name)
def test_every_field_of_a_schema_has_a_type_and_is_explained(
    document: schema_page.Document,
) -> None:
    fields = [*document.fields()]
    assert fields
    assert [one.path for one in fields if not (one.type and one.says)] == []


def test_every_schema_has_its_section() -> None:
    headings = [one for one in schema_page.write().splitlines() if one[:3] == "## "]
    assert headings == [f"## {one.schema['title']}" for one in DOCUMENTS]
    assert len(set(headings)) == len(headings)


def test_every_public_error_is_listed_with_its_status() -> None:
    public = [*vars(errors).values()]
    kinds = {
        one for one in public if isinstance(one, type) and issubclass(one, errors.Error)
    }
    page = error_page.write()
    assert set(error_page.classes()) == kinds
    for one in kinds:
        row = f"| [`{one.__name__}`](names.md#{one.__name__.lower()}) | "
        assert f"{row}{one.exit_status} | " in page


def test_every_option_of_a_strategy_has_its_row() -> None:
    found = strategy_page.bundled()
    assert {"none", "space", "performance"} <= set(found)
    for strategy in found.values():
        schema: dict[str, Any] = {"properties": {}, **strategy.options_schema}
        rows = [*strategy_page.rows(schema)][2:]
        assert len(rows) == len(schema["properties"])
        assert not [row for row in rows if row.endswith("|  |")]
