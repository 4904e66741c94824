"""Commands of ordinary users: a path leads through what they may not look into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ordinary_user
from tests.harness.cli import Finished, allocpolicy

pytestmark = pytest.mark.system


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory with disks, and one that an ordinary user can't look into."""
    with ordinary_user.public_place() as place:
        (place / "disks").mkdir(mode=0o755)
        (place / "closed").mkdir(mode=0o700)
        (place / "closed" / "inside").mkdir()
        yield place


def run(*arguments: object) -> Finished:
    """Run a command as an ordinary user, who may not be able to read our Python."""
    allocpolicy(*arguments)  # imports what it takes
    with ordinary_user.assumed():
        return allocpolicy(*arguments)


def test_a_path_that_is_given_is_refused_in_words(place: Path) -> None:
    inside = place / "closed" / "inside"
    for arguments in (
        ("audit", place / "disks", "--textfile", inside / "a.prom"),
        ("strategy", "new", "kept", inside / "new"),
    ):
        done = run(*arguments)
        (line,) = done.stderr.splitlines()
        assert (done.status, done.stdout) == (2, "")
        assert line.startswith(f"allocpolicy {' '.join(map(str, arguments[:1]))}")
        assert f"{arguments[-1]}: " in line
        assert line.endswith("Permission denied")


def test_a_map_may_name_what_cannot_be_looked_into(place: Path) -> None:
    entry = f"{{path: {place}/closed/inside, format: raw, strategy: none}}"
    (place / "map.yaml").write_text(f"disks:\n- {entry}\n")
    done = run("audit", place / "disks", "--map", place / "map.yaml")
    assert done.status == 0, done.stderr
    assert "no disk has it first\n" in done.stderr
