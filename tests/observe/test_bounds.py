"""One disk of a fleet costs no more than it may; else that is what is said of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, Judgement
from allocpolicy.errors import TooMuchWork
from allocpolicy.observe.sighting import Declared, Observer, Sighting
from allocpolicy.observe.walk import Found
from allocpolicy.storage import effort
from allocpolicy.storage.effort import Bound
from tests.harness import hostile
from tests.harness.hostile import GiB, MiB
from tests.harness.qcow2_disks import create

BOUNDLESS = Bound(seconds=1000, memory=GiB)

pytestmark = pytest.mark.qemu


def seen(disk: Path, *, bound: Bound) -> Sighting:
    path = os.fspath(disk)
    declared = {path: Declared(format=DiskFormat.QCOW2)}
    observer = Observer(declared=declared, bound=bound)
    sighting = observer(Found(path=path, named=True))
    assert sighting is not None
    return sighting


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        (Bound(seconds=0, memory=GiB), "more than 0 s of processor time"),
        (Bound(seconds=1000, memory=MiB), "of memory"),
    ],
)
def test_a_disk_that_costs_too_much_is_unverifiable(
    tmp_path: Path, bound: Bound, reason: str
) -> None:
    """Its storage still counts; the next disk has a bound of its own."""
    disk = hostile.in_disorder(tmp_path / "disk", virtual_size=8 * GiB, step=104729)
    assert seen(disk, bound=BOUNDLESS).observed is not None  # which syncs it
    sighting = seen(disk, bound=bound)
    assert sighting.fault is not None
    assert sighting.fault.judgement is Judgement.UNVERIFIABLE
    assert reason in sighting.fault.reason
    assert sighting.holding is not None
    assert sighting.holding.actual_size == disk.stat().st_blocks * 512
    small = create(tmp_path / "small", MiB)
    assert seen(small, bound=Bound(seconds=1000, memory=MiB)).observed is not None


def test_without_a_bound_there_is_none() -> None:
    """An inner one holds until its body ends; then it is what it was."""
    effort.check(holding=1 << 60)
    with effort.bounded(Bound(seconds=1000, memory=10)):
        inner = effort.bounded(Bound(seconds=1000, memory=5))
        with inner, pytest.raises(TooMuchWork):
            effort.check(holding=6)
        effort.check(holding=6)
        with pytest.raises(TooMuchWork):
            effort.check(holding=11)
    effort.check(holding=1 << 60)
