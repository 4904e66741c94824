"""What the strategy answers, and what becomes of a disk that it handed out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from allocpolicy import (
    Adopt,
    Allocation,
    Change,
    DiskFormat,
    DiskRole,
    Facts,
    Filesystem,
    Headroom,
    Host,
    Judgement,
    Operation,
    Order,
    PlanError,
    Policy,
    Replan,
    Report,
    Request,
    Unsupported,
    apply,
    check_plan,
    inspect,
    provision,
    resize,
)
from allocpolicy_pool import filling
from allocpolicy_pool.directory import NAME
from allocpolicy_pool.ready import Kind
from allocpolicy_pool.strategy import Pool, Take

Fill = Callable[..., list[Path]]
HandOut = Callable[..., Report]

RAW = Kind(virtual_size=1 << 20, format=DiskFormat.RAW)
HOST = Host(
    directory=Path("/srv/vm"),
    filesystem=Filesystem(
        type="ext4",
        key="/dev/test",
        block_size=4096,
        size=1 << 40,
        free=1 << 39,
        fallocate=True,
        copy_on_write=False,
        nocow=False,
        user_xattr=True,
    ),
    headroom=Headroom(ratio=0.01, minimum=64 << 20),
)
REQUEST = Request(
    operation=Operation.PROVISION,
    destination=Path("/srv/vm/disk"),
    virtual_size=1 << 30,
    format=DiskFormat.RAW,
    disk_role=DiskRole.EPHEMERAL,
)
POOL = Path("/srv/vm") / NAME
FIRST, SECOND = POOL / "first", POOL / "second"
FACTS = Facts(
    host=HOST,
    base=None,
    observed={"pool": str(POOL), "ready": (str(FIRST), str(SECOND))},
)


def is_written(report: Report) -> bool:
    """Return whether all of a disk is written, as far as its filesystem shows it."""
    seen = report.observed
    assert seen is not None
    return seen.extents is None or seen.allocation is Allocation.WRITTEN


def test_takes_the_first_that_is_not_lost() -> None:
    """Nothing is allocated, and the disk can take no more than it has."""
    for lost, taken in (((), FIRST), ((FIRST,), SECOND)):
        facts = replace(FACTS, lost=lost)
        plan = Pool().plan(request=REQUEST, options={}, facts=facts)
        assert check_plan(plan, request=REQUEST, facts=facts) is plan
        assert plan.steps == (Take(path=taken),)
        assert (plan.reserved_bytes, plan.peak_bytes) == (0, 0)
        assert plan.promised_bytes == REQUEST.virtual_size


def test_is_unsupported_when_all_are_lost() -> None:
    with pytest.raises(Unsupported, match=r"1G .*pool fill /srv/vm --size 1G"):
        Pool().plan(
            request=REQUEST, options={}, facts=replace(FACTS, lost=(FIRST, SECOND))
        )


@pytest.mark.parametrize(
    "spared",
    [
        replace(REQUEST, trial=True),
        replace(REQUEST, destination=POOL / "disk"),
    ],
    ids=["trial", "for the pool"],
)
def test_takes_nothing_for_a_trial_nor_for_the_pool_itself(spared: Request) -> None:
    """Such a disk is made, and keeps the same promise."""
    assert Pool().observe(request=spared, options={}, host=HOST) == {}
    assert Pool().exclusive(request=spared, options={}) is None
    plan = Pool().plan(request=spared, options={}, facts=FACTS)
    assert not any(isinstance(step, Adopt) for step in plan.steps)
    assert plan.written
    assert plan.reserved_bytes >= spared.virtual_size


class Taken:
    """A target that becomes whatever has the path, as if it had been swapped."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.fd = directory, -1

    def adopt(self, path: Path) -> None:
        """Open whatever is there now."""
        self.fd = os.open(path, os.O_RDWR)


def test_what_is_taken_is_what_was_looked_at(disks: Path, fill: Fill) -> None:
    """Whoever owns a directory above the pool can swap it between the two."""
    (made,) = fill(1, RAW)
    step, target = Take(path=made), Taken(disks)
    step.run(target, lambda *, done, total: None)
    os.close(target.fd)
    made.parent.rename(disks / "the pool")
    made.parent.mkdir()
    made.write_bytes(bytes(RAW.virtual_size))
    with pytest.raises(Replan, match="it is a copy") as told:
        step.run(target, lambda *, done, total: None)
    assert told.value.lost == made
    os.close(target.fd)


def test_one_lock_for_the_disks_of_a_kind() -> None:
    """Who waits takes what is left; who wants another kind need not wait."""
    other = replace(REQUEST, format=DiskFormat.QCOW2)
    names = {Pool().exclusive(request=one, options={}) for one in (REQUEST, other)}
    assert names == {"pool-1073741824-raw", "pool-1073741824-qcow2"}


def test_refuses_a_base_image(disks: Path, policy: Policy) -> None:
    """A ready-made disk is empty: no storage could serve that."""
    base = disks / "base.raw"
    base.write_bytes(b"base" * 1024)
    order = Order(
        destination=disks / "disk",
        base=base,
        base_format="raw",
        virtual_size=1 << 20,
        format=DiskFormat.RAW,
        extra_specs={"allocpolicy:strategy": "pool"},
    )
    with pytest.raises(PlanError, match="hands out empty disks") as refused:
        provision(order, policy=policy)
    assert len(str(refused.value).splitlines()) == 1


def test_a_disk_that_lost_storage_is_written_again_and_keeps_its_data(
    disks: Path, fill: Fill, hand_out: HandOut, policy: Policy, kind: Kind
) -> None:
    """Without taking a disk from the pool."""
    fill(2, kind)
    hand_out("disk", kind)
    disk = disks / "disk"
    end = disk.stat().st_size - 4096
    with disk.open("r+b") as file:
        file.seek(end)
        file.write(b"data" * 1024)
    hole = ["fallocate", "--punch-hole", "--offset", str(end - 65536), "-l", "65536"]
    subprocess.run([*hole, str(disk)], check=True)
    found = inspect(disk, policy=policy).verdict
    assert found is not None
    assert found.judgement is not Judgement.MEETS
    report = apply(Change(disk=disk), policy=policy)
    assert is_written(report)
    assert report.verdict is not None
    assert report.verdict.judgement is not Judgement.DRIFTED
    assert disk.read_bytes()[-4096:] == b"data" * 1024
    assert len(filling.look(disks)) == 1


def test_a_disk_grows_and_stays_written(
    disks: Path, fill: Fill, hand_out: HandOut, policy: Policy, kind: Kind
) -> None:
    fill(1, kind)
    hand_out("disk", kind)
    report = resize(
        Change(disk=disks / "disk", virtual_size=2 * kind.virtual_size), policy=policy
    )
    assert report.observed is not None
    assert report.observed.virtual_size == 2 * kind.virtual_size
    assert is_written(report)


def test_a_thin_disk_becomes_one_of_its_kind(
    disks: Path, policy: Policy, kind: Kind
) -> None:
    """A disk that another strategy made is written, whatever is in the pool."""
    order = Order(
        destination=disks / "disk",
        virtual_size=kind.virtual_size,
        format=kind.format,
        extra_specs={"allocpolicy:strategy": "none"},
    )
    provision(order, policy=policy)
    report = apply(
        Change(disk=disks / "disk", extra_specs={"allocpolicy:strategy": "pool"}),
        policy=policy,
    )
    assert is_written(report)
    assert os.listdir(disks) == ["disk"]
