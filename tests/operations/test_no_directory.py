"""Relative paths in a working directory that somebody has removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy import (
    Change,
    DestinationError,
    Error,
    ImageError,
    Order,
    Policy,
    apply,
    audit,
    ensure,
    inspect,
    provision,
    resize,
)
from allocpolicy.operations import stamp

POLICY = Policy(configured=False)
ORDER = Order(destination="x", virtual_size="1M", format="raw")
CHANGE = Change(disk="x", virtual_size="1M", format="raw")


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()


@pytest.mark.parametrize(
    ("attempt", "kind"),
    [
        (lambda: provision(ORDER, policy=POLICY), DestinationError),
        (lambda: ensure(ORDER, policy=POLICY), DestinationError),
        (lambda: apply(CHANGE, policy=POLICY), ImageError),
        (lambda: resize(CHANGE, policy=POLICY), ImageError),
        (lambda: stamp.remove(Path("x"), policy=POLICY), ImageError),
        (lambda: inspect("x", policy=POLICY), ImageError),
        (lambda: audit("x", policy=POLICY), ImageError),
    ],
    ids=["provision", "ensure", "apply", "resize", "remove", "inspect", "audit"],
)
def test_a_relative_path_is_refused_in_words(
    attempt: Callable[[], object], kind: type[Error]
) -> None:
    with pytest.raises(kind, match="No such file or directory") as refused:
        attempt()
    assert refused.value.exit_status == 2


def test_what_is_expected_by_a_relative_path_is_missing() -> None:
    seen = audit([], policy=POLICY, expected={"x": None})
    assert [row.word for row in seen.rows] == ["missing"]
