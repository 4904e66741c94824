"""docs/explanation/promises.md says what is so: its table is made, disk by disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cli import allocpolicy
from tests.harness.images import MIB

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "promises.md"


def table() -> Iterator[list[str]]:
    """Yield the rows of the page's table, its head first."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def made(row: str, disk: Path) -> str:
    """Make the disk that a row names; return its cell."""
    strategy, format, *options = row.split()
    specs = [f"--extra-spec=allocpolicy:{strategy}.{option}" for option in options]
    finished = allocpolicy(
        *("provision", disk, "--size", 32 * MIB, "--format", format, "-f", "json"),
        *("--strategy", strategy, *specs),
    )
    if finished.status:
        return f"exit {finished.status}"
    observed = finished.document["observed"]
    words = [observed["allocation"], *["guaranteed"] * observed["guaranteed"]]
    return ", ".join(words)


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs", "ext2")
def test_every_cell_of_the_table_is_true(directory: Path, filesystem_kind: str) -> None:
    (_, *kinds), *rows = table()
    column = kinds.index(filesystem_kind) + 1
    expected = {row[0]: row[column] for row in rows}
    found = {row: made(row, directory / row.replace(" ", "-")) for row in expected}
    assert len(expected) == 12
    assert found == expected
