"""What every installed strategy keeps to for disks that exist: apply and resize."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections.abc import Iterator
from types import MappingProxyType

import pytest

from allocpolicy import (
    Allocation,
    BaseImage,
    CopyBase,
    DiskFormat,
    DiskRole,
    ExtentSummary,
    Facts,
    Filesystem,
    GrowQcow2,
    Headroom,
    Host,
    Judgement,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Request,
    Reserve,
    Step,
    Strategy,
    Unsupported,
)
from allocpolicy.registry import installed
from tests.contract.test_every_strategy import (
    CLOSED,
    FILESYSTEMS,
    GIB,
    MIB,
    NOWHERE,
    Case,
    Watch,
    assert_shares_nothing_reserved,
    every_strategy,
    is_one_line,
    observations,
    option_sets,
    served,
)

SIZE = 10 * GIB + 512
GROWN = 16 * GIB
OBSTACLE = "the test says so"


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


def disks() -> Iterator[Observation]:
    """Yield disks of one size in every state, those that share blocks among them."""
    for one in observations():
        if one.virtual_size != SIZE:
            continue
        yield one
        yield dataclasses.replace(one, file_size=MIB, actual_size=MIB)
        if one.allocation is Allocation.THIN:
            yield dataclasses.replace(one, extents=shared(one.file_size))
        if one.allocation in (Allocation.THIN, Allocation.UNVERIFIABLE):
            yield dataclasses.replace(one, overwrites_in_place=False)


def shared(size: int) -> ExtentSummary:
    return ExtentSummary(
        count=1,
        fragments=1,
        written=size,
        unwritten=0,
        shared=size,
        encoded=0,
        delalloc=0,
        hole=0,
    )


def image(current: Observation, *, format: DiskFormat, size: int) -> BaseImage:
    """Return the disk as an image to copy from."""
    return BaseImage(
        path=NOWHERE / "disk",
        fd=CLOSED,
        format=format,
        virtual_size=size,
        data_bytes=min(current.actual_size, size),
        plain=True,
        identity=(),
        source=NOWHERE / "disk",
        source_format=str(format),
        leased=True,
    )


def facts_of(
    current: Observation, *, filesystem: Filesystem, rewritable: bool
) -> Facts:
    headroom = Headroom(ratio=0.01, minimum=64 * MIB)
    host = Host(directory=NOWHERE, filesystem=filesystem, headroom=headroom)
    if not rewritable:
        return Facts(host=host, base=None, obstacle=OBSTACLE)
    return Facts(
        host=host,
        base=image(current, format=current.format, size=current.virtual_size),
        file=image(current, format=DiskFormat.RAW, size=current.file_size),
    )


def requests(current: Observation) -> Iterator[Request]:
    """Yield what may be asked of a disk."""
    apply = Request(
        operation=Operation.APPLY,
        destination=NOWHERE / "disk",
        virtual_size=current.virtual_size,
        format=current.format,
        disk_role=DiskRole.ROOT,
    )
    yield apply
    yield dataclasses.replace(apply, allow_thin=True)
    yield dataclasses.replace(apply, operation=Operation.RESIZE, virtual_size=GROWN)


def cases(strategy: Strategy) -> Iterator[Case]:
    """Yield every combination of options, disk, request, storage and obstacle."""
    for options, current, filesystem, rewritable in itertools.product(
        option_sets(strategy), disks(), FILESYSTEMS, (True, False)
    ):
        facts = facts_of(current, filesystem=filesystem, rewritable=rewritable)
        for request in requests(current):
            observed = strategy.observe(
                request=request, options=options, host=facts.host
            )
            yield Case(
                options=options,
                request=request,
                current=current,
                facts=dataclasses.replace(
                    facts, observed=MappingProxyType(dict(observed))
                ),
            )


def plans(strategy: Strategy) -> Iterator[tuple[Case, Plan]]:
    """Yield every case that the strategy serves, with its plan."""
    return served(cases(strategy), strategy)


@every_strategy
@pytest.mark.parametrize("operation", [Operation.APPLY, Operation.RESIZE])
def test_serves_somebody(strategy: Strategy, operation: Operation) -> None:
    """With the default options, some disk on ordinary storage is served."""
    defaults = next(option_sets(strategy))
    assert any(
        case.options == defaults and case.request.operation is operation
        for case, _ in plans(strategy)
    )


@every_strategy
def test_refuses_in_one_line_that_pickles(strategy: Strategy) -> None:
    """A refusal is a PlanError or Unsupported; any other exception fails here."""
    for case in cases(strategy):
        answer = case.ask(strategy)
        if isinstance(answer, PlanError | Unsupported):
            assert is_one_line(str(answer))
            assert str(pickle.loads(pickle.dumps(answer))) == str(answer)


@every_strategy
def test_plan_opens_nothing_and_depends_on_its_arguments_alone(
    name: str, watch: Watch
) -> None:
    """A dry run shows what a run does."""
    one, other = installed.load(name).strategy, installed.load(name).strategy
    asked = list(cases(one))
    asked[0].ask(one)  # imports that were put off open files, once
    for case in asked:
        with watch.on() as seen:
            answer = case.ask(one)
        assert seen == []
        if isinstance(answer, Plan):
            assert case.ask(other) == answer


@every_strategy
def test_steps_are_steps_that_pickle_and_describe_themselves(
    strategy: Strategy,
) -> None:
    """A plan that does nothing has none, and any other has some."""
    for case, plan in plans(strategy):
        assert bool(plan.steps) == (plan.mode is not Mode.NOTHING), case
        for step in plan.steps:
            assert isinstance(step, Step)
            assert is_one_line(step.describe())
        assert pickle.loads(pickle.dumps(plan)) == plan


@every_strategy
def test_sizes_are_bytes_in_order(strategy: Strategy) -> None:
    """Reserved is part of what steps allocate, and that of what a full disk takes."""
    for case, plan in plans(strategy):
        sizes = (0, plan.reserved_bytes, plan.peak_bytes, plan.promised_bytes)
        assert all(type(size) is int for size in sizes), case
        assert list(sizes) == sorted(sizes), case
        assert plan.promised_bytes >= case.request.virtual_size, case
        if plan.mode is Mode.NOTHING:
            assert plan.peak_bytes == plan.reserved_bytes == 0, case


@every_strategy
def test_a_plan_in_place_counts_what_it_reserves(strategy: Strategy) -> None:
    """What the disk lacks of a reservation is known before the first step."""
    for case, plan in plans(strategy):
        current = case.current
        assert current is not None
        lengths = [step.length for step in plan.steps if isinstance(step, Reserve)]
        if plan.mode is Mode.IN_PLACE and lengths:
            missing = max(lengths) - current.actual_size
            assert plan.reserved_bytes >= missing, case


@every_strategy
def test_a_disk_that_grows_counts_the_tables_that_map_it(strategy: Strategy) -> None:
    """An L2 entry of 8 bytes for each new cluster of 64 KiB, whatever is reserved."""
    for case, plan in plans(strategy):
        grown = [step for step in plan.steps if isinstance(step, GrowQcow2)]
        if any(step.mapped for step in grown):
            assert plan.peak_bytes >= (GROWN - SIZE) // (8 << 10), case


@every_strategy
def test_beside_a_running_vm_there_is_fallocate_only(strategy: Strategy) -> None:
    """What writes to the file, or changes its tables, needs the disk alone."""
    for case, plan in plans(strategy):
        if plan.online:
            assert plan.mode is not Mode.STAGED, case
            assert case.request.operation is Operation.APPLY, case
            assert all(type(step) is Reserve for step in plan.steps), case


@every_strategy
def test_a_rewrite_copies_what_is_there(strategy: Strategy) -> None:
    """A disk is not replaced by an empty one, nor without having been read."""
    for case, plan in plans(strategy):
        if plan.mode is Mode.STAGED:
            assert case.facts.base is not None, case
            assert any(isinstance(step, CopyBase) for step in plan.steps), case


@every_strategy
def test_storage_of_its_own_is_never_shared(strategy: Strategy) -> None:
    """Reserved before or filled after, no step may give the disk another's blocks."""
    for case, plan in plans(strategy):
        assert_shares_nothing_reserved(plan, case)


@every_strategy
def test_a_disk_that_meets_is_not_rewritten(strategy: Strategy) -> None:
    """What keeps its promise is left where it is, if nothing is to be given back."""
    for case, plan in plans(strategy):
        current = case.current
        assert current is not None
        if plan.mode is Mode.STAGED and not case.request.allow_thin:
            verdict = strategy.verify(options=case.options, observation=current)
            assert verdict.judgement is not Judgement.MEETS, case


@every_strategy
def test_growing_never_rewrites(strategy: Strategy) -> None:
    """It is done where the disk is, or apply has to come first."""
    for case, plan in plans(strategy):
        if case.request.operation is Operation.RESIZE:
            assert plan.mode is Mode.IN_PLACE, case
