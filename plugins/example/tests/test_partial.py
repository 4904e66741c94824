"""The plans and verdicts of ``partial``: pure, so without a disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from allocpolicy import (
    Allocation,
    CreateQcow2,
    DiskFormat,
    DiskRole,
    Facts,
    Filesystem,
    GrowQcow2,
    Headroom,
    Host,
    Judgement,
    MappingState,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Request,
    Reserve,
    ReservePastEnd,
    SetNocow,
    Unsupported,
    fully_allocated_size,
)
from allocpolicy_partial import Partial, reserved_size

GIB = 1 << 30
SIZE = 10 * GIB
OPTIONS = {"share": 25}

EXT4 = Filesystem(
    type="ext4",
    key="/dev/test",
    block_size=4096,
    size=100 * GIB,
    free=50 * GIB,
    fallocate=True,
    copy_on_write=False,
    nocow=False,
    user_xattr=True,
)
BTRFS = dataclasses.replace(EXT4, type="btrfs", copy_on_write=True, nocow=True)

REQUEST = Request(
    operation=Operation.PROVISION,
    destination=Path("/srv/vm/disk"),
    virtual_size=SIZE,
    format=DiskFormat.QCOW2,
    disk_role=DiskRole.ROOT,
)


def facts_on(filesystem: Filesystem) -> Facts:
    headroom = Headroom(ratio=0.01, minimum=64 << 20)
    host = Host(directory=Path("/srv/vm"), filesystem=filesystem, headroom=headroom)
    return Facts(host=host, base=None)


def observation(*, held: int, allocation: Allocation = Allocation.THIN) -> Observation:
    return Observation(
        format=DiskFormat.QCOW2,
        virtual_size=SIZE,
        file_size=held,
        actual_size=held,
        full_size=fully_allocated_size(SIZE, cluster_size=64 << 10),
        mapping=MappingState.NONE,
        allocation=allocation,
        guaranteed=False,
        exception="the disk is thin",
        filesystem="ext4",
        extents=None,
        cluster_size=64 << 10,
    )


def test_reserves_all_metadata_and_the_share_of_the_data() -> None:
    """The floor is the share of the disk, whatever metadata scattered writes need."""
    metadata = fully_allocated_size(SIZE, cluster_size=64 << 10) - SIZE
    assert reserved_size(SIZE, share=25) == metadata + SIZE // 4


@pytest.mark.parametrize("share", [1, 25, 99])
@pytest.mark.parametrize("virtual_size", [512, 1 << 20, SIZE])
def test_never_reserves_more_than_the_whole_disk(virtual_size: int, share: int) -> None:
    """A share is at most everything, however small the disk."""
    full = fully_allocated_size(virtual_size, cluster_size=64 << 10)
    assert 0 < reserved_size(virtual_size, share=share) <= full


def test_creates_then_reserves() -> None:
    """Nothing is reserved in a file that is written anew afterwards."""
    plan = Partial().plan(request=REQUEST, options=OPTIONS, facts=facts_on(EXT4))
    length = reserved_size(SIZE, share=25)
    assert plan.steps == (CreateQcow2(virtual_size=SIZE), Reserve(length=length))
    assert plan.peak_bytes == plan.reserved_bytes == length


def amended(
    current: Observation, *, grown: int = SIZE, filesystem: Filesystem = EXT4
) -> Plan:
    """Return the plan that brings a disk to its share, or grows it."""
    operation = Operation.RESIZE if grown != SIZE else Operation.APPLY
    request = dataclasses.replace(REQUEST, operation=operation, virtual_size=grown)
    return Partial().amend(
        request=request,
        current=current,
        options=OPTIONS,
        facts=facts_on(filesystem),
    )


def test_a_disk_that_has_its_share_is_left_alone() -> None:
    """There is nothing to do, and nothing to wait for."""
    plan = amended(observation(held=reserved_size(SIZE, share=25)))
    assert plan.mode is Mode.NOTHING
    assert not plan.steps
    assert plan.peak_bytes == plan.reserved_bytes == 0


def test_what_is_missing_of_a_share_is_reserved_in_place() -> None:
    """Also while a VM runs, as fallocate(2) is all that is done."""
    length = reserved_size(SIZE, share=25)
    plan = amended(observation(held=length - GIB))
    assert (plan.mode, plan.online) == (Mode.IN_PLACE, True)
    assert list(plan.steps) == [Reserve(length=length)]
    assert plan.peak_bytes == plan.reserved_bytes == GIB


def test_a_grown_disk_has_its_share_of_the_new_size() -> None:
    """Room for it is made before the disk grows, which no VM may have open."""
    length = reserved_size(2 * SIZE, share=25)
    held = reserved_size(SIZE, share=25)
    plan = amended(observation(held=held), grown=2 * SIZE)
    first, grow, last = plan.steps
    assert first == ReservePastEnd(length=length)
    assert grow == GrowQcow2(virtual_size=2 * SIZE)
    assert last == Reserve(length=length)
    assert (plan.mode, plan.online) == (Mode.IN_PLACE, False)
    assert plan.reserved_bytes == length - held
    assert plan.promised_bytes >= fully_allocated_size(2 * SIZE)


@pytest.mark.parametrize("grown", [SIZE, 2 * SIZE])
def test_refuses_to_reserve_what_would_move(grown: int) -> None:
    """A file that is not NOCOW on btrfs keeps no share, whatever is reserved in it."""
    moved = dataclasses.replace(observation(held=GIB), overwrites_in_place=False)
    with pytest.raises(PlanError, match="copy it first"):
        amended(moved, grown=grown, filesystem=BTRFS)


def test_is_nocow_where_overwriting_allocates_anew() -> None:
    """The flag comes first: btrfs takes it only while the file is empty."""
    plan = Partial().plan(request=REQUEST, options=OPTIONS, facts=facts_on(BTRFS))
    assert plan.steps[0] == SetNocow()


def test_refuses_raw() -> None:
    """A raw disk has no first clusters to serve, and the error says so."""
    request = dataclasses.replace(REQUEST, format=DiskFormat.RAW)
    with pytest.raises(PlanError, match="needs format qcow2"):
        Partial().plan(request=request, options=OPTIONS, facts=facts_on(EXT4))


@pytest.mark.parametrize(
    "filesystem",
    [
        dataclasses.replace(EXT4, type="ext2", fallocate=False),
        dataclasses.replace(BTRFS, type="zfs", nocow=False),
    ],
    ids=lambda filesystem: filesystem.type,
)
def test_refuses_storage_that_reserves_nothing(filesystem: Filesystem) -> None:
    """A share that could not be kept is not promised."""
    with pytest.raises(Unsupported, match=filesystem.type):
        Partial().plan(request=REQUEST, options=OPTIONS, facts=facts_on(filesystem))


@pytest.mark.parametrize(
    ("missing", "judgement"), [(0, Judgement.MEETS), (4096, Judgement.DRIFTED)]
)
def test_meets_while_the_share_has_storage(missing: int, judgement: Judgement) -> None:
    """One block short of the share has drifted."""
    observed = observation(held=reserved_size(SIZE, share=25) - missing)
    verdict = Partial().verify(options=OPTIONS, observation=observed)
    assert verdict.judgement is judgement


def test_does_not_judge_what_the_filesystem_hides() -> None:
    """No claim either way where storage is not shown."""
    observed = observation(held=SIZE, allocation=Allocation.UNVERIFIABLE)
    verdict = Partial().verify(options=OPTIONS, observation=observed)
    assert verdict.judgement is Judgement.UNVERIFIABLE


def test_attaches_without_discard() -> None:
    """A guest's discards must not punch holes into its share."""
    attachment = Partial().attach(options=OPTIONS, observation=observation(held=SIZE))
    assert attachment.discard == "ignore"
