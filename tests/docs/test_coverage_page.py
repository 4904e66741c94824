"""The figures on coverage are sums of what coverage reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness.tool import load

if TYPE_CHECKING:
    from tools import coverage_page
else:
    coverage_page = load("coverage_page")

SITE = "/opt/lib/python3.11/site-packages/"
SUMMARY = dict.fromkeys(coverage_page.COUNTS, 10) | {"covered_lines": 5}


@pytest.mark.parametrize(
    ("file", "room"),
    [
        ("allocpolicy/errors.py", "allocpolicy"),
        (f"{SITE}allocpolicy/cli/audit.py", "cli"),
        (f"{SITE}allocpolicy/testing/laws/plans.py", "testing"),
        ("plugins/allocpolicy_strategies/space/__init__.py", "allocpolicy_strategies"),
    ],
)
def test_a_file_is_of_a_room(file: str, room: str) -> None:
    assert coverage_page.room(file) == room


def test_rooms_and_all_of_them_are_sums() -> None:
    files = (f"{SITE}allocpolicy/cli/{name}.py" for name in ("audit", "apply"))
    copy = "/tmp/pytest-of-root/pytest-1/packages.zip/allocpolicy/errors.py"
    found = {
        file: {"summary": SUMMARY} for file in (*files, "allocpolicy/errors.py", copy)
    }
    table = [*coverage_page.rows(coverage_page.sums({"files": found}))][2:]
    assert table == [
        "| allocpolicy | 10 | 5 | 10 | 10 | 75.0 % |",
        "| cli | 20 | 10 | 20 | 20 | 75.0 % |",
        "| **all** | 30 | 15 | 30 | 30 | 75.0 % |",
    ]
