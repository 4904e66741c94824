"""What every installed strategy keeps to: the bundled ones, the example, and yours.

Run it with your own distribution installed beside allocpolicy: strategies are found by
their entry points.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

import pytest

from allocpolicy import (
    Allocation,
    Attachment,
    BaseImage,
    CopyBase,
    DiskFormat,
    DiskRole,
    Facts,
    Filesystem,
    FillHoles,
    Headroom,
    Host,
    Judgement,
    MappingState,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Policy,
    Request,
    Reserve,
    Sharing,
    Step,
    Strategy,
    Unsupported,
    Verdict,
    fully_allocated_size,
    schema,
)
from allocpolicy.cli import libvirt_xml
from allocpolicy.observe.host import storage
from allocpolicy.registry import installed, option_schema, option_values
from tests.harness.directory import open_directory

MIB = 1 << 20
GIB = 1 << 30
BUNDLED = {"none", "performance", "space"}
EXAMPLE = "partial"

Options = Mapping[str, object]

# Without a pool on a real filesystem pool serves nobody: plugins/pool has its tests.
NAMES = [name for name in installed.names() if name != "pool"]
every_strategy = pytest.mark.parametrize("name", NAMES)

# Paths that are nowhere and descriptors that are closed: a plan has no use for either.
NOWHERE = Path("/nonexistent/allocpolicy")
CLOSED = -1

EXT4 = Filesystem(
    type="ext4",
    key="/dev/contract",
    block_size=4096,
    size=100 * GIB,
    free=50 * GIB,
    fallocate=True,
    copy_on_write=False,
    nocow=False,
    user_xattr=True,
)
FILESYSTEMS = (
    EXT4,
    dataclasses.replace(EXT4, type="btrfs", copy_on_write=True, nocow=True),
    dataclasses.replace(EXT4, type="xfs"),
    dataclasses.replace(EXT4, type="ext2", fallocate=False),
    dataclasses.replace(EXT4, type="tmpfs", key="tmpfs-0:42", user_xattr=False),
)
BASES = (
    None,
    BaseImage(
        path=NOWHERE / "base.qcow2",
        fd=CLOSED,
        format=DiskFormat.QCOW2,
        virtual_size=MIB,
        data_bytes=MIB // 2,
        plain=True,
        identity=(),
        source=NOWHERE / "base.qcow2",
        source_format="qcow2",
    ),
    BaseImage(
        path=NOWHERE / "_base" / "0123",
        fd=CLOSED,
        format=DiskFormat.RAW,
        virtual_size=MIB,
        data_bytes=MIB,
        plain=True,
        identity=(),
        source=NOWHERE / "base.vmdk",
        source_format="vmdk",
    ),
    BaseImage(
        path=NOWHERE / "compressed.qcow2",
        fd=CLOSED,
        format=DiskFormat.QCOW2,
        virtual_size=MIB,
        data_bytes=MIB,
        plain=False,
        identity=(),
        source=NOWHERE / "compressed.qcow2",
        source_format="qcow2",
    ),
)
REFLINK = frozenset({"btrfs", "xfs"})
SIZES = (MIB, 10 * GIB + 512, 3 << 40)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question to a strategy."""

    options: Options
    request: Request
    facts: Facts
    current: Observation | None = None

    def ask(self, strategy: Strategy) -> Plan | PlanError | Unsupported:
        """Return the plan, or the refusal."""
        try:
            if self.current is None:
                return strategy.plan(
                    request=self.request, options=self.options, facts=self.facts
                )
            return strategy.amend(
                request=self.request,
                current=self.current,
                options=self.options,
                facts=self.facts,
            )
        except (PlanError, Unsupported) as refusal:
            return refusal


def option_sets(strategy: Strategy) -> Iterator[Options]:
    """Yield the defaults, then each option at each value worth trying."""
    declared = strategy.options_schema
    yield MappingProxyType(option_values.convert({}, options_schema=declared))
    for raw in written_options(strategy):
        converted = option_values.convert(raw, options_schema=declared)
        yield MappingProxyType(converted)


def written_options(strategy: Strategy) -> Iterator[Mapping[str, str]]:
    """Yield single options as an extra spec writes them."""
    properties: Mapping[str, Mapping[str, Any]] = strategy.options_schema["properties"]  # type: ignore[assignment]
    for name, option in properties.items():
        values = option.get("enum", [option["default"]])
        limits = [option[limit] for limit in ("minimum", "maximum") if limit in option]
        for value in [*values, *limits]:
            if not isinstance(value, list):
                yield {name: str(value)}


def cases(strategy: Strategy) -> Iterator[Case]:
    """Yield every combination of options, format, base image, size and storage."""
    for options, format, base, size, filesystem in itertools.product(
        option_sets(strategy), DiskFormat, BASES, SIZES, FILESYSTEMS
    ):
        request = Request(
            operation=Operation.PROVISION,
            destination=NOWHERE / "disk",
            virtual_size=size,
            format=format,
            disk_role=DiskRole.ROOT if base else DiskRole.EPHEMERAL,
            base=base,
        )
        host = Host(
            directory=NOWHERE,
            filesystem=filesystem,
            headroom=Headroom(ratio=0.01, minimum=64 * MIB),
        )
        observed = MappingProxyType(
            dict(strategy.observe(request=request, options=options, host=host))
        )
        # A base image on the disk's filesystem, or on another.
        for shares_base in {False, base is not None and filesystem.type in REFLINK}:
            facts = Facts(
                host=host, base=base, shares_base=shares_base, observed=observed
            )
            yield Case(options=options, request=request, facts=facts)


def served(asked: Iterable[Case], strategy: Strategy) -> Iterator[tuple[Case, Plan]]:
    """Yield the cases that the strategy serves, with its plans."""
    for case in asked:
        answer = case.ask(strategy)
        if isinstance(answer, Plan):
            yield case, answer


def plans(strategy: Strategy) -> Iterator[tuple[Case, Plan]]:
    """Yield every case that the strategy serves, with its plan."""
    return served(cases(strategy), strategy)


def observations() -> Iterator[Observation]:
    """Yield disks in every observable state, whether or not anything makes such."""
    for format, size, mapping, allocation, backing in itertools.product(
        DiskFormat, SIZES, MappingState, Allocation, (None, NOWHERE / "base.qcow2")
    ):
        qcow2 = format is DiskFormat.QCOW2
        if not qcow2 and (backing or mapping is not MappingState.FULL):
            continue
        full = fully_allocated_size(size) if qcow2 else size
        yield Observation(
            format=format,
            virtual_size=size,
            file_size=full,
            actual_size=4096 if allocation is Allocation.THIN else full,
            full_size=full,
            mapping=mapping,
            allocation=allocation,
            guaranteed=False,
            exception="synthetic",
            filesystem="ext4",
            extents=None,
            backing_file=backing,
            backing_format="qcow2" if backing else None,
            cluster_size=64 << 10 if qcow2 else None,
        )


class Watch:
    """Records what Python's audit hooks report while it is on."""

    FAMILIES = ("fcntl", "glob", "os", "shutil", "socket", "subprocess", "tempfile")

    def __init__(self) -> None:
        self.seen: list[str] | None = None
        sys.addaudithook(self.hook)  # for ever: no hook can be removed

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """Note an event that means I/O."""
        if self.seen is not None and (
            event == "open" or event.partition(".")[0] in self.FAMILIES
        ):
            self.seen.append(f"{event}{arguments}")

    @contextmanager
    def on(self) -> Iterator[list[str]]:
        """Give the list that events are recorded in."""
        self.seen = []
        try:
            yield self.seen
        finally:
            self.seen = None


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


def is_one_line(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and text.isprintable()


def test_the_bundled_strategies_and_the_example_are_installed() -> None:
    """An empty suite would be green; this one is not empty."""
    assert BUNDLED | {EXAMPLE} <= set(installed.names())


@every_strategy
def test_is_claimed_once_by_a_distribution_with_a_version(name: str) -> None:
    """`strategy list` can say where each comes from."""
    found = installed.find(name)
    assert found.distribution != "unknown"
    assert found.version != "unknown"


@every_strategy
def test_summary_is_one_line(strategy: Strategy) -> None:
    """It is a cell of `strategy list`."""
    assert is_one_line(strategy.summary)


@every_strategy
def test_options_are_described_and_have_valid_defaults(strategy: Strategy) -> None:
    """`strategy show` has something to say of each option, and nothing must be set."""
    options_schema = strategy.options_schema
    option_schema.check(options_schema)
    defaults = option_values.convert({}, options_schema=options_schema)
    assert schema.validate(defaults, schema=options_schema) == []
    for option in options_schema["properties"].values():  # type: ignore[attr-defined]
        assert is_one_line(option["description"])


@every_strategy
def test_options_schema_refuses_what_it_does_not_know(strategy: Strategy) -> None:
    """A misspelt option is an error, never ignored."""
    assert schema.validate({"no-such-option": 1}, schema=strategy.options_schema)


@every_strategy
def test_serves_somebody(strategy: Strategy) -> None:
    """With the default options, some request on ordinary storage is served."""
    defaults = next(option_sets(strategy))
    assert any(case.options == defaults for case, _ in plans(strategy))


@every_strategy
def test_refuses_in_one_line_that_pickles(strategy: Strategy) -> None:
    """A refusal is a PlanError or Unsupported; any other exception fails here."""
    for case in cases(strategy):
        answer = case.ask(strategy)
        if isinstance(answer, Plan):
            continue
        assert is_one_line(str(answer))
        assert str(pickle.loads(pickle.dumps(answer))) == str(answer)


@every_strategy
def test_plan_depends_on_its_arguments_alone(name: str) -> None:
    """Two instances answer alike, so that a dry run shows what a run does."""
    one, other = installed.load(name).strategy, installed.load(name).strategy
    for case, plan in plans(one):
        assert case.ask(other) == plan


@every_strategy
def test_plan_opens_nothing(strategy: Strategy, watch: Watch) -> None:
    """Planning is pure: whoever must look at something does so in observe()."""
    asked = list(cases(strategy))
    asked[0].ask(strategy)  # imports that were put off open files, once
    for case in asked:
        with watch.on() as seen:
            case.ask(strategy)
        assert seen == []


def test_the_watch_sees_files_opened(watch: Watch, tmp_path: Path) -> None:
    """The purity check can fail."""
    with watch.on() as seen:
        os.listdir(tmp_path)
        (tmp_path / "file").write_text("")
    assert len(seen) == 2


@every_strategy
def test_a_new_disk_is_staged(strategy: Strategy) -> None:
    """Only a staged disk can vanish without a trace, so only those are provisioned."""
    for case, plan in plans(strategy):
        assert plan.mode is Mode.STAGED, case
        assert plan.steps, case


@every_strategy
def test_steps_describe_themselves_in_one_line(strategy: Strategy) -> None:
    """A dry run prints them."""
    for _, plan in plans(strategy):
        for step in plan.steps:
            assert isinstance(step, Step)
            assert is_one_line(step.describe())


@every_strategy
def test_sizes_are_bytes_in_order(strategy: Strategy) -> None:
    """Reserved is part of what steps allocate, and that of what a full disk takes."""
    for case, plan in plans(strategy):
        sizes = (0, plan.reserved_bytes, plan.peak_bytes, plan.promised_bytes)
        assert all(type(size) is int for size in sizes), case
        assert list(sizes) == sorted(sizes), case
        assert plan.promised_bytes >= case.request.virtual_size, case


@every_strategy
def test_what_is_not_shared_is_counted(strategy: Strategy) -> None:
    """Whatever makes copies needs room for them, known before any byte is copied."""
    for case, plan in plans(strategy):
        base = case.facts.base
        copies = [step for step in plan.steps if isinstance(step, CopyBase)]
        if base and copies and not case.facts.shares_base:
            assert plan.peak_bytes >= base.data_bytes, case


def assert_shares_nothing_reserved(plan: Plan, case: Case) -> None:
    if any(isinstance(step, Reserve | FillHoles) for step in plan.steps):
        for step in plan.steps:
            if isinstance(step, CopyBase):
                assert step.sharing is Sharing.NEVER, case


@every_strategy
def test_storage_of_its_own_is_never_shared(strategy: Strategy) -> None:
    """Reserved before or filled after, no step may give the disk another's blocks."""
    for case, plan in plans(strategy):
        assert_shares_nothing_reserved(plan, case)


@every_strategy
def test_a_reason_to_copy_is_given_where_something_is_copied(
    strategy: Strategy,
) -> None:
    """A plan does not explain what it does not do."""
    for case, plan in plans(strategy):
        if "copied" in plan.reason:
            assert any(isinstance(step, CopyBase) for step in plan.steps), case


@every_strategy
def test_plans_pickle(strategy: Strategy) -> None:
    """A plan is a value: it can be kept, compared and sent elsewhere."""
    for _, plan in plans(strategy):
        assert pickle.loads(pickle.dumps(plan)) == plan


@every_strategy
def test_observe_changes_nothing(strategy: Strategy, tmp_path: Path) -> None:
    """It runs in a dry run, too; what it returns can be recorded."""
    host = storage(open_directory(tmp_path), policy=Policy()).host
    for case in cases(strategy):
        request = dataclasses.replace(case.request, destination=tmp_path / "disk")
        observed = strategy.observe(request=request, options=case.options, host=host)
        assert pickle.loads(pickle.dumps(dict(observed))) == observed
    assert list(tmp_path.iterdir()) == []


@every_strategy
def test_verify_judges_any_disk(strategy: Strategy, watch: Watch) -> None:
    """Audit shows it every disk there is: it judges by observation, and says why."""
    for options, observation in itertools.product(
        option_sets(strategy), observations()
    ):
        with watch.on() as seen:
            verdict = strategy.verify(options=options, observation=observation)
        assert seen == []
        assert isinstance(verdict, Verdict)
        assert verdict.judgement in Judgement
        assert is_one_line(verdict.reason)
        assert pickle.loads(pickle.dumps(verdict)) == verdict


@every_strategy
def test_what_is_hidden_never_counts_for_a_disk(strategy: Strategy) -> None:
    """An unverifiable disk meets only what the same disk meets when it is thin."""
    for options, thin in itertools.product(option_sets(strategy), observations()):
        if thin.allocation is not Allocation.THIN:
            continue
        hidden = dataclasses.replace(thin, allocation=Allocation.UNVERIFIABLE)
        verdict = strategy.verify(options=options, observation=hidden)
        if verdict.judgement is Judgement.MEETS:
            shown = strategy.verify(options=options, observation=thin)
            assert shown.judgement is Judgement.MEETS


@every_strategy
def test_attachment_is_one_that_qemu_takes(strategy: Strategy, watch: Watch) -> None:
    """The names are those of -blockdev; Linux AIO needs O_DIRECT."""
    for options, observation in itertools.product(
        option_sets(strategy), observations()
    ):
        with watch.on() as seen:
            attachment = strategy.attach(options=options, observation=observation)
        assert seen == []
        assert isinstance(attachment, Attachment)
        assert attachment.discard in {"ignore", "unmap"}
        assert attachment.detect_zeroes in {"off", "on", "unmap"}
        assert attachment.cache in {
            "none",
            "writeback",
            "writethrough",
            "directsync",
            "unsafe",
        }
        assert attachment.io in {"threads", "native", "io_uring"}
        if attachment.detect_zeroes == "unmap":
            assert attachment.discard == "unmap"
        if attachment.io == "native":
            assert attachment.cache in {"none", "directsync"}
        assert attachment.l2_cache_size is None or attachment.l2_cache_size > 0


@every_strategy
def test_attachment_is_one_that_libvirt_takes(strategy: Strategy) -> None:
    """`inspect --libvirt-xml` prints it; raw disks have no metadata to keep in mind."""
    for options, observation in itertools.product(
        option_sets(strategy), observations()
    ):
        attachment = strategy.attach(options=options, observation=observation)
        element = ElementTree.fromstring(
            libvirt_xml.driver(attachment, observed=observation)
        )
        assert element.attrib["type"] == str(observation.format)
        assert element.attrib["discard"] == attachment.discard
        size = element.find("metadata_cache/max_size")
        cached = attachment.l2_cache_size is not None and observation.cluster_size
        assert (size is not None) == bool(cached)
