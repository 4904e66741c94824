"""Many disks: each as if it were made alone, undisturbed by another's failure."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    DestinationExists,
    InvalidRequest,
    NotEnoughSpace,
    Order,
    Policy,
    Result,
    WorkerLost,
    provision,
    provision_many,
)
from tests.harness import filesystems, images
from tests.harness.images import MIB

POLICY = Policy(configured=False)
BY_JOBS = pytest.mark.parametrize("jobs", [1, 4])


def order(disk: Path, strategy: str = "none", size: int = MIB, **more: object) -> Order:
    given = {"extra_specs": {"allocpolicy:strategy": strategy}, **more}
    return Order(destination=disk, virtual_size=size, **given)  # type: ignore[arg-type]


def made(*orders: Order, jobs: int) -> list[Result]:
    return list(provision_many(orders, policy=POLICY, jobs=jobs))


@BY_JOBS
@pytest.mark.parametrize("strategy", ["none", "space", "performance"])
def test_each_is_what_provision_makes(tmp_path: Path, strategy: str, jobs: int) -> None:
    """The reports differ in path and time, and come in the order of the orders."""
    alone = provision(order(tmp_path / "alone", strategy), policy=POLICY)
    names = [f"disk-{number}" for number in range(10)]
    orders = [order(tmp_path / name, strategy) for name in names]
    results = made(*orders, jobs=jobs)
    assert [one.order for one in results] == orders
    for name, result in zip(names, results, strict=True):
        assert result.error is None
        assert result.report is not None
        assert result.report.disk == tmp_path / name
        assert result.report.requested == alone.requested
        assert result.report.requested.loaded.found == alone.requested.loaded.found
        assert result.report.stamp == alone.stamp
        assert result.report.verdict == alone.verdict
        document = result.report.as_document()
        assert document.keys() == alone.as_document().keys()


@BY_JOBS
def test_one_that_fails_harms_no_other(tmp_path: Path, jobs: int) -> None:
    """Its error is the one that `provision` raises."""
    (tmp_path / "taken").touch()
    (tmp_path / "text").write_text("no image")
    results = made(
        order(tmp_path / "first"),
        order(tmp_path / "taken"),
        order(tmp_path / "nowhere" / "disk"),
        order(tmp_path / "odd", size=513),
        order(tmp_path / "unknown", "spaec"),
        order(tmp_path / "huge", "space", size=1 << 43),
        order(tmp_path / "based", base=tmp_path / "missing"),
        order(tmp_path / "last"),
        jobs=jobs,
    )
    kinds = [type(one.error).__name__ if one.error else None for one in results]
    assert kinds == [
        *(None, "DestinationExists", "DestinationError", "InvalidRequest"),
        *("ExtraSpecError", "NotEnoughSpace", "ImageError", None),
    ]
    for one in results:
        if one.error is not None:
            with pytest.raises(type(one.error)) as alone:
                provision(one.order, policy=POLICY)
            if not isinstance(one.error, NotEnoughSpace):  # its figures move
                assert str(one.error) == str(alone.value)
    assert sorted(os.listdir(tmp_path)) == ["first", "last", "taken", "text"]


@BY_JOBS
def test_a_disk_is_asked_for_once(tmp_path: Path, jobs: int) -> None:
    """Also where its first order fails; the same path may be written in other ways."""
    (tmp_path / "below").mkdir()
    results = made(
        order(tmp_path / "odd", size=513),
        order(tmp_path / "below" / ".." / "odd"),
        order(tmp_path / "disk"),
        order(tmp_path / "disk"),
        order(tmp_path / "overlay", base=tmp_path / "disk"),
        jobs=jobs,
    )
    said = [str(one.error or "") for one in results]
    assert "asked for twice" in said[1]
    assert not said[2]
    assert "asked for twice" in said[3]
    assert "is a disk of the same batch" in said[4]
    assert os.listdir(tmp_path / "below") == []


@BY_JOBS
def test_orders_are_taken_as_there_is_work_for_them(tmp_path: Path, jobs: int) -> None:
    """A stream has no end that must be reached before the first result."""

    def endless() -> Iterator[Order]:
        number = 0
        while True:
            number += 1
            yield order(tmp_path / f"disk-{number}")

    stream = provision_many(endless(), policy=POLICY, jobs=jobs)
    first = [next(stream) for _ in range(20)]
    stream.close()  # type: ignore[attr-defined]
    assert [one.order.destination.name for one in first] == [
        f"disk-{number}" for number in range(1, 21)
    ]
    for disk in tmp_path.iterdir():
        images.check(disk)


@BY_JOBS
def test_every_disk_is_told_of_in_this_process(
    tmp_path: Path, jobs: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Who listens to the log of changes hears of each, and nothing of a dry run."""
    with caplog.at_level(logging.INFO, logger="allocpolicy.changes"):
        made(*(order(tmp_path / f"disk-{one}") for one in range(8)), jobs=jobs)
        told = {record.change["disk"] for record in caplog.records}  # type: ignore[attr-defined]
        assert told == {str(tmp_path / f"disk-{one}") for one in range(8)}
        caplog.clear()
        dry = (order(tmp_path / f"new-{one}", dry_run=True) for one in range(4))
        results = made(*dry, jobs=jobs)
    assert not caplog.records
    assert all(one.report and one.report.dry_run for one in results)


def test_a_killed_worker_costs_its_disk_alone(tmp_path: Path) -> None:
    """It is an error of that disk, of which nothing is left."""
    parent = os.getpid()
    orders = [order(tmp_path / f"disk-{number}") for number in range(12)]
    from allocpolicy.operations import provision_many as many

    original = many._result

    def killing(given: Any, **rest: Any) -> Result:
        if given.order.destination.name == "disk-5" and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(given, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(many, "_result", killing)
        results = made(*orders, jobs=3)
    lost = [one.order.destination.name for one in results if one.error]
    assert lost == ["disk-5"]
    assert isinstance(results[5].error, WorkerLost)
    assert not (tmp_path / "disk-5").exists()
    assert len(list(tmp_path.iterdir())) == 11


def test_an_error_of_any_making_arrives() -> None:
    """What can't be pickled is told by its text."""
    from allocpolicy.operations import provision_many as many

    class Odd(Exception):
        def __reduce__(self) -> str:
            raise RuntimeError("no")

    report, error = many._received(many._sent(None, Odd("it broke"), ()))
    assert report is None
    assert "it broke" in str(error)


@pytest.mark.parametrize("jobs", [0, -1])
def test_work_needs_a_process(jobs: int) -> None:
    with pytest.raises(InvalidRequest, match="at least one"):
        provision_many((), policy=POLICY, jobs=jobs)


def test_no_order_is_no_work_and_what_is_none_is_refused() -> None:
    assert made(jobs=2) == []
    with pytest.raises(InvalidRequest, match=r"orders\[0\]"):
        list(provision_many(["disk"], policy=POLICY, jobs=1))  # type: ignore[list-item]


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_as_many_reservations_succeed_as_fit(directory: Path) -> None:
    """Of orders of one size, as many as if they were made one after another."""
    # five of them, and half of one: what their metadata takes decides nothing
    size = filesystems.available(directory) * 2 // 11
    size -= size % MIB
    orders = [order(directory / f"disk-{one}", "space", size) for one in range(12)]
    results = made(*orders, jobs=6)
    failed = [one for one in results if one.error]
    assert all(isinstance(one.error, NotEnoughSpace) for one in failed)
    fitting = len(results) - len(failed)
    for one in results:
        if one.report:
            one.report.disk.unlink()
    filesystems.at_rest(directory)
    alone = [one.error is None for one in made(*orders, jobs=1)]
    assert alone == [True] * fitting + [False] * len(failed)
    assert not any(isinstance(one.error, DestinationExists) for one in results)
