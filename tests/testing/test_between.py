"""What the suite puts between a strategy's steps is there, and gone afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocpolicy import (
    Change,
    DiskFormat,
    NotEnoughSpace,
    Order,
    Policy,
    Report,
    Strategy,
    StrategyFailed,
    apply,
    provision,
)
from allocpolicy.registry import installed
from allocpolicy.testing import between

STEPS = 2  # of space, for a new raw disk on ordinary storage
POLICY = Policy()


@pytest.fixture
def space() -> Strategy:
    return installed.load("space").strategy


def made(directory: Path, *, strategy: str = "space") -> Report:
    order = Order(
        destination=directory / "disk",
        virtual_size=1 << 20,
        format=DiskFormat.RAW,
        extra_specs={"allocpolicy:strategy": strategy},
    )
    return provision(order, policy=POLICY)


@pytest.mark.filesystems("ext4")
def test_something_is_done_before_each_step_and_at_the_end(
    directory: Path, space: Strategy
) -> None:
    sizes: list[int] = []
    with between.every_step(
        space,
        lambda target: sizes.append(Path(f"/proc/self/fd/{target.fd}").stat().st_size),
    ):
        made(directory)
    assert len(sizes) == STEPS + 1
    assert sizes[0] == 0 and sizes[-1] == 1 << 20


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize("at", range(STEPS + 1))
@pytest.mark.parametrize(
    ("error", "told"),
    [(RuntimeError("law"), StrategyFailed), (OSError(28, "full"), NotEnoughSpace)],
)
def test_a_failure_there_is_one_of_the_work(
    directory: Path,
    space: Strategy,
    at: int,
    error: Exception,
    told: type[Exception],
) -> None:
    """Also in a change, which another process carries out."""

    def fail() -> None:
        raise error

    with between.one_step(space, fail, at=at), pytest.raises(told):
        made(directory)
    assert not [*directory.iterdir()]
    made(directory, strategy="none")
    change = Change(
        disk=directory / "disk", extra_specs={"allocpolicy:strategy": "space"}
    )
    with between.one_step(space, fail, at=min(at, 1)), pytest.raises(told):
        apply(change, policy=POLICY)


@pytest.mark.filesystems("ext4")
def test_nothing_is_left_of_it(directory: Path, space: Strategy) -> None:
    before = {**vars(type(space))}
    with between.one_step(space, lambda: None, at=0):
        made(directory)
    assert {**vars(type(space))} == before
