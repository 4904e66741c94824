"""Of many disks that are alike one is prepared first, and the others are clones."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocpolicy import Order, Policy, PreparedDisks, Report, provision_many
from allocpolicy.execute import ahead, preparing, recipe, spare
from allocpolicy.operations.alike import Alike
from allocpolicy.storage import named_lock
from tests.harness import filesystems, images

REFLINK = pytest.mark.filesystems("xfs", "btrfs")
SIZE = 20 << 30  # 3.2 MiB of tables: worth to be prepared
COUNT = 12


def reports(directory: Path, policy: Policy, *, jobs: int) -> list[Report]:
    """Make disks that are alike; each must be there."""
    orders = [
        Order(
            destination=directory / f"disk-{number}",
            virtual_size=SIZE,
            extra_specs={"allocpolicy:strategy": "performance"},
        )
        for number in range(COUNT)
    ]
    results = list(provision_many(orders, policy=policy, jobs=jobs))
    assert [one.error for one in results] == [None] * COUNT
    filesystems.wait_for_preparing(directory)
    for one in orders:
        images.check(one.destination)
        assert images.fully_mapped(one.destination)
    return [one.report for one in results if one.report]


def cloned(made: list[Report]) -> int:
    return sum(one.cloned is not None for one in made)


def entries(directory: Path) -> int:
    return len(list(directory.glob("_base/*.prepared.*")))


@REFLINK
@pytest.mark.parametrize("jobs", [1, 6])
def test_at_most_two_are_made_by_their_steps(
    directory: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first, which may be the only one of its kind, and that which is prepared."""
    monkeypatch.setattr(ahead, "_LONGEST", 600.0)
    made = reports(directory, Policy(configured=False), jobs=jobs)
    assert cloned(made) >= COUNT - 2
    assert entries(directory) == 1


@pytest.mark.filesystems("ext4", "xfs")
def test_what_cannot_be_prepared_is_made(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without reflink, or beyond the operator's limit; each process tries once."""
    tried = directory / "tried"
    original = preparing.prepare

    def counted(*given: object, **rest: object) -> Path:
        with tried.open("a") as file:
            file.write("x")
        return original(*given, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(preparing, "prepare", counted)
    limit = PreparedDisks(enabled=True, max_bytes=4096)
    policy = Policy(configured=False, prepared_disks=limit)
    assert cloned(reports(directory, policy, jobs=4)) == 0
    assert entries(directory) == 0
    assert 1 <= len(tried.read_text()) <= 4


@REFLINK
def test_nobody_waits_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where another process has the lock, the disks are made by their steps."""
    monkeypatch.setattr(ahead, "_LONGEST", 0.1)
    monkeypatch.setattr(recipe, "lock", lambda *_, **__: "prepare-held")
    policy = Policy(configured=False, lock_path=tmp_path)
    with named_lock.hold("prepare-held", lock_path=tmp_path):
        assert cloned(reports(directory, policy, jobs=4)) == 0
    assert entries(directory) == 0


@REFLINK
def test_what_is_not_worth_it_is_not_waited_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spare, "_LEAST_MADE", SIZE)
    monkeypatch.setattr(recipe, "lock", lambda *_, **__: "prepare-held")
    policy = Policy(configured=False, lock_path=tmp_path)
    with named_lock.hold("prepare-held", lock_path=tmp_path):
        assert cloned(reports(directory, policy, jobs=4)) == 0
    assert entries(directory) == 0


def test_disks_are_alike_in_one_directory(tmp_path: Path) -> None:
    """Their names don't matter, and all else does."""
    kinds = Alike()
    assert not kinds.was_seen(tmp_path / "a", 1, "raw")
    assert not kinds.was_seen(tmp_path / "b", 2, "raw")
    assert not kinds.was_seen(tmp_path / "below" / "a", 1, "raw")
    assert kinds.was_seen(tmp_path / "c", 1, "raw")
    assert kinds.was_seen(tmp_path / "below" / "\udcff", 1, "raw")
