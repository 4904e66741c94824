"""One verb for a disk, whatever is there: the second time nothing is written."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    DiskFormat,
    Error,
    InvalidRequest,
    Limits,
    Order,
    Policy,
    Report,
    ensure,
    provision,
)
from allocpolicy.record import replace
from allocpolicy.storage import fallocate
from tests.conftest import FreshFilesystem
from tests.harness import images, ordinary_user, strategies
from tests.harness.cli import allocpolicy, allocpolicy_process, command, environment
from tests.harness.filesystems import available
from tests.harness.images import MIB

SIZE = 16 * MIB
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
ON_XFS = pytest.mark.filesystems("xfs")
SPACE = {"allocpolicy:strategy": "space"}
PERFORMANCE = {"allocpolicy:strategy": "performance"}
FALLOC = {"allocpolicy:performance.data": "falloc"}
CHANGES = 10  # the exit status of --detailed-exitcode


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(lock_path=tmp_path / "locks")


def state(disk: Path) -> object:
    """Return what any change would change, of the disk and its record."""
    status = disk.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def wanted(disk: Path, **others: Any) -> Order:
    given: dict[str, Any] = {"virtual_size": SIZE} | others
    return Order(destination=disk, **given)


def make(disk: Path, policy: Policy, **others: Any) -> Report:
    return provision(wanted(disk, **others), policy=policy)


def bring(disk: Path, policy: Policy, **others: Any) -> Report:
    """Make sure of a disk; what a check says before is what is done."""
    order = wanted(disk, **others)
    before = state(disk) if disk.exists() else None
    said = ensure(order, policy=policy, check=True)
    assert said.dry_run
    assert (state(disk) if disk.exists() else None) == before
    done = ensure(order, policy=policy)
    for name in ("operation", "mode", "changed", "format", "virtual_size"):
        assert getattr(said, name) == getattr(done, name), name
    kept = state(disk)
    again = ensure(order, policy=policy)
    assert (again.changed, again.mode, again.steps) == (False, "nothing", ())
    assert state(disk) == kept
    return done


@ALL
@pytest.mark.parametrize("format", list(DiskFormat))
@pytest.mark.parametrize("specs", [{}, SPACE, PERFORMANCE])
def test_what_is_missing_is_made(
    directory: Path, policy: Policy, format: DiskFormat, specs: dict[str, str]
) -> None:
    disk = directory / "disk"
    done = bring(disk, policy, format=format, extra_specs=specs)
    assert (done.operation, done.changed) == ("provision", True)
    assert done.verdict and done.verdict.judgement == "meets"


@ALL
def test_what_has_drifted_is_mended(directory: Path, policy: Policy) -> None:
    disk = directory / "disk"
    make(disk, policy, extra_specs=SPACE)
    images.qemu_io(disk, "discard 1M 8M", format="raw", discard="unmap")
    done = bring(disk, policy, extra_specs=SPACE)
    assert (done.operation, done.mode) == ("apply", "in_place")
    assert done.observed and done.observed.allocation == "reserved"


@ALL
def test_another_policy_is_brought_into_force(directory: Path, policy: Policy) -> None:
    """By a rewrite, in place, or by the record alone."""
    disk = directory / "disk"
    make(disk, policy)
    for specs, mode in ((PERFORMANCE, "staged"), ({"allocpolicy:strategy": "none"}, 0)):
        done = bring(disk, policy, extra_specs=specs)
        assert done.mode == (mode or "stamped")
        assert done.stamp and done.stamp.requested.strategy == done.requested.strategy
    labelled = bring(disk, policy, labels={"tenant": "acme"})
    assert labelled.steps == ("record label tenant=acme",)


@ALL
@pytest.mark.parametrize("format", list(DiskFormat))
@pytest.mark.parametrize("specs", [{}, SPACE, PERFORMANCE])
def test_what_is_too_small_grows(
    directory: Path, policy: Policy, format: DiskFormat, specs: dict[str, str]
) -> None:
    disk = directory / "disk"
    make(disk, policy, format=format, extra_specs=specs)
    done = bring(disk, policy, format=format, extra_specs=specs, virtual_size=2 * SIZE)
    assert (done.operation, done.mode) == ("resize", "in_place")
    assert images.info(disk, format=format)["virtual-size"] == 2 * SIZE
    assert done.verdict and done.verdict.judgement == "meets"


@ALL
def test_what_is_too_small_and_has_drifted_is_mended_and_grows(
    directory: Path, policy: Policy
) -> None:
    """Also where it must be rewritten first: both are one change."""
    disk = directory / "disk"
    make(disk, policy)
    done = bring(disk, policy, extra_specs=PERFORMANCE, virtual_size=2 * SIZE)
    assert (done.operation, done.mode) == ("resize", "staged")
    assert done.before and done.before.virtual_size == SIZE
    assert done.before.mapping == "none", "before both"
    assert images.fully_mapped(disk)
    assert any(step.startswith("record policy performance") for step in done.steps)


@ALL
@pytest.mark.parametrize("specs", [SPACE, PERFORMANCE | FALLOC])
def test_a_check_tells_what_a_change_and_the_growth_after_it_take(
    directory: Path, policy: Policy, specs: dict[str, str]
) -> None:
    """In place one after the other, or a rewrite that takes another's place."""
    disk = directory / "disk"
    make(disk, policy)
    order = wanted(disk, extra_specs=specs, virtual_size=3 * SIZE)
    said = ensure(order, policy=policy, check=True)
    done = ensure(order, policy=policy)
    assert said.virtual_size == done.virtual_size == 3 * SIZE
    near = pytest.approx(3 * SIZE, rel=0.02)
    for one in (said, done):
        assert one.peak_bytes == near
        assert one.promised_bytes == near
        assert one.reserved_bytes == near
    assert said.free_bytes is not None
    assert said.free_after_bytes == pytest.approx(
        said.free_bytes - 3 * SIZE, abs=3 * SIZE * 0.02
    )


@ALL
@pytest.mark.parametrize("limit", ["space", "promise"])
def test_nothing_is_begun_if_there_is_room_for_the_rewrite_and_not_for_the_growth(
    directory: Path, policy: Policy, limit: str
) -> None:
    disk, size = directory / "disk", 2 * SIZE
    make(disk, policy)
    if limit == "space":
        size = available(directory) // MIB * MIB
    else:
        policy = replace(policy, limits=Limits(max_promised_bytes=SIZE * 3 // 2))
    order = wanted(disk, extra_specs=PERFORMANCE | FALLOC, virtual_size=size)
    before, told = state(disk), set()
    for check in (True, False):
        with pytest.raises(Error) as raised:
            ensure(order, policy=policy, check=check)
        told.add(str(raised.value))
        assert raised.value.exit_status == (3 if limit == "space" else 2)
        assert state(disk) == before
    assert all("once it is rewritten" in one for one in told)


@ON_XFS
@pytest.mark.parametrize("size", [2 * SIZE + 1, 1 << 60])
def test_nothing_is_begun_for_a_size_that_no_disk_can_have(
    directory: Path, policy: Policy, size: int
) -> None:
    """Also where the disk is to be rewritten first."""
    disk = directory / "disk"
    make(disk, policy)
    order, before = (
        wanted(disk, extra_specs=PERFORMANCE, virtual_size=size),
        state(disk),
    )
    for check in (True, False):
        with pytest.raises(InvalidRequest, match=f"^size {size}: "):
            ensure(order, policy=policy, check=check)
        assert state(disk) == before


@ON_XFS
def test_a_disk_keeps_the_policy_of_its_stamp_where_none_is_chosen(
    directory: Path, policy: Policy
) -> None:
    disk = directory / "disk"
    make(disk, policy, extra_specs=SPACE)
    assert not bring(disk, policy).changed
    assert bring(disk, policy, virtual_size=2 * SIZE).effective.strategy == "space"


@ON_XFS
def test_a_disk_without_a_stamp_gets_the_operators_default(
    directory: Path, policy: Policy
) -> None:
    disk = directory / "disk"
    images.qemu_img("create", "-q", "-f", "qcow2", disk, SIZE)
    done = bring(disk, policy)
    assert (done.mode, done.steps) == ("stamped", ("record policy none",))


@pytest.mark.filesystems("tmpfs")
@pytest.mark.parametrize("format", list(DiskFormat))
def test_zeroes_are_written_once_where_there_is_no_fiemap(
    directory: Path, policy: Policy, format: DiskFormat
) -> None:
    disk = directory / "disk"
    full = PERFORMANCE | {"allocpolicy:performance.data": "full"}
    make(disk, policy, format=format, extra_specs=SPACE)
    done = bring(disk, policy, format=format, extra_specs=full)
    assert done.verdict and done.verdict.judgement == "meets"
    grown = {"format": format, "extra_specs": full, "virtual_size": 2 * SIZE}
    assert bring(disk, policy, **grown).changed
    with disk.open("r+b") as file:  # reserved again, and no longer written
        fallocate.punch(file.fileno(), offset=4 * MIB, length=MIB)
        os.posix_fallocate(file.fileno(), 4 * MIB, MIB)
    assert bring(disk, policy, **grown).mode == "in_place"


@pytest.mark.filesystems("tmpfs")
def test_where_no_stamp_can_be_recorded_the_second_run_changes_nothing(
    directory: Path, policy: Policy
) -> None:
    """Before Linux 6.6 tmpfs has no user xattrs."""
    assert bring(directory / "disk", policy, extra_specs=SPACE).changed
    assert bring(directory / "other", policy).changed


def refused(disk: Path, policy: Policy, order: Order) -> str:
    """Check that it is an invalid request, whether or not it is only checked."""
    before = state(disk)
    told = set()
    for check in (True, False):
        with pytest.raises(Exception) as raised:  # noqa: PT011  (any of ours)
            ensure(order, policy=policy, check=check)
        assert getattr(raised.value, "exit_status", None) == 2
        told.add(str(raised.value))
    assert state(disk) == before
    (said,) = told
    return said


@ON_XFS
@pytest.mark.parametrize("format", list(DiskFormat))
def test_a_larger_disk_never_shrinks(
    directory: Path, policy: Policy, format: DiskFormat
) -> None:
    disk = directory / "disk"
    make(disk, policy, format=format)
    order = wanted(disk, format=format, virtual_size=SIZE // 2, extra_specs=SPACE)
    assert "never shrinks" in refused(disk, policy, order)


@ON_XFS
@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("format", list(DiskFormat))
def test_another_format_is_refused(
    directory: Path, policy: Policy, format: DiskFormat, stamped: bool
) -> None:
    disk = directory / "disk"
    other = next(one for one in DiskFormat if one is not format)
    if stamped:
        make(disk, policy, format=other)
    else:
        images.qemu_img("create", "-q", "-f", other, disk, SIZE)
    said = refused(disk, policy, wanted(disk, format=format))
    assert str(disk) in said
    assert not stamped or f"keeps its format; ask for {other}" in said


@ON_XFS
def test_another_base_image_is_refused(directory: Path, policy: Policy) -> None:
    """The same by another name is none, nor what a standalone disk was copied from."""
    for name in ("base", "another"):
        images.qemu_img("create", "-q", "-f", "raw", directory / name, SIZE)
    (directory / "link").symlink_to(directory / "base")
    disk = directory / "disk"
    from_base = {"base": directory / "base", "base_format": "raw"}
    make(disk, policy, **from_base)
    for name in ("base", "link"):
        assert not bring(disk, policy, base=directory / name).changed
    said = refused(disk, policy, wanted(disk, base=directory / "another"))
    assert f"based on {directory / 'base'}" in said
    grown = bring(disk, policy, virtual_size=2 * SIZE, **from_base)
    assert grown.operation == "resize"
    assert bring(
        disk, policy, extra_specs=PERFORMANCE, virtual_size=2 * SIZE, **from_base
    ).changed
    (directory / "base").unlink()
    order = {"extra_specs": PERFORMANCE, "virtual_size": 2 * SIZE, **from_base}
    assert not bring(disk, policy, **order).changed


@pytest.mark.qemu
@ON_XFS
def test_a_base_image_that_was_converted_is_known_by_its_copy(
    directory: Path, policy: Policy
) -> None:
    raw, bases = directory / "raw", [directory / "a.vmdk", directory / "b.vmdk"]
    for number, base in enumerate(bases):
        raw.write_bytes(bytes([number + 1]) * MIB)
        images.qemu_img("convert", "-f", "raw", "-O", "vmdk", raw, base)
    disk = directory / "disk"
    make(disk, policy, base=bases[0])
    make(directory / "other", policy, base=bases[1])
    assert not bring(disk, policy, base=bases[0]).changed
    assert "is asked for" in refused(disk, policy, wanted(disk, base=bases[1]))


@ON_XFS
@pytest.mark.parametrize("what", ["directory", "fifo", "dangling"])
def test_what_is_no_disk_is_refused(directory: Path, policy: Policy, what: str) -> None:
    disk = directory / "disk"
    if what == "directory":
        disk.mkdir()
    elif what == "fifo":
        os.mkfifo(disk)
    else:
        disk.symlink_to(directory / "gone")
    with pytest.raises(Exception) as raised:  # noqa: PT011  (any of ours)
        ensure(wanted(disk), policy=policy)
    assert getattr(raised.value, "exit_status", None) == 2
    assert os.listdir(directory) == ["disk"]


@ON_XFS
def test_a_disk_that_may_not_be_written_to_is_left_alone_if_it_meets(
    directory: Path, policy: Policy
) -> None:
    """As on a read-only filesystem; a check refuses what is to be changed as well."""
    disk = directory / "disk"
    make(disk, policy)
    subprocess.run(["chattr", "+i", disk], check=True)
    try:
        assert not bring(disk, policy).changed
        for specs, size in ((SPACE, SIZE), (PERFORMANCE, SIZE), ({}, 2 * SIZE)):
            order = wanted(disk, extra_specs=specs, virtual_size=size)
            assert "cannot write to it" in refused(disk, policy, order)
    finally:
        subprocess.run(["chattr", "-i", disk], check=True)


@pytest.mark.qemu
@ON_XFS
def test_beside_a_running_vm_what_is_safe_is_done_and_nothing_else(
    directory: Path, policy: Policy
) -> None:
    """A reservation in place; no rewrite and no growth, nor half of both."""
    disk = directory / "disk"
    make(disk, policy, extra_specs=SPACE)
    images.qemu_io(disk, "discard 1M 8M", format="raw", discard="unmap")
    with images.held_by_qemu(disk, format="qcow2"):
        for specs, size in ((PERFORMANCE, SIZE), (SPACE, 2 * SIZE)):
            order = wanted(disk, extra_specs=specs, virtual_size=size)
            assert "in use" in refused(disk, policy, order)
        done = ensure(wanted(disk, extra_specs=SPACE), policy=policy)
    assert (done.mode, done.changed) == ("in_place", True)


def racing(order: Order, policy: Policy, *, number: int) -> list[int]:
    """Make sure of it in as many processes at once; return 1 for those that changed."""
    work = partial(ensure, order, policy=policy)
    return sorted(strategies.race([lambda: int(work().changed)] * number))


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_of_those_who_want_one_disk_at_once_one_makes_it(
    fresh_filesystem: FreshFilesystem, policy: Policy, kind: str
) -> None:
    """There is room for one: the others take none, not even for a moment."""
    place = fresh_filesystem(kind, size=512 * MIB)
    size = (available(place) - 64 * MIB) * 2 // 3 // MIB * MIB
    order = wanted(place / "disk", extra_specs=SPACE, virtual_size=size)
    assert racing(order, policy, number=4) == [0, 0, 0, 1]
    assert (place / "disk").stat().st_blocks * 512 >= size
    assert set(os.listdir(place)) - {"lost+found"} == {"disk"}


@ON_XFS
def test_of_those_who_mend_one_disk_at_once_one_does(
    directory: Path, policy: Policy
) -> None:
    disk = directory / "disk"
    make(disk, policy)
    order = wanted(disk, extra_specs=PERFORMANCE, virtual_size=2 * SIZE)
    assert racing(order, policy, number=3) == [0, 0, 1]
    assert images.fully_mapped(disk)


@ON_XFS
def test_a_name_that_is_taken_meanwhile_is_looked_at_again(
    directory: Path, policy: Policy
) -> None:
    """By a program that doesn't wait for us, just before we publish."""
    disk = directory / "disk"

    def watch(description: str, /) -> Callable[..., None]:
        if not disk.exists():
            make(disk, policy)
        return lambda *, done, total: None

    done = ensure(wanted(disk), policy=policy, watch=watch)
    assert (done.operation, done.changed) == ("apply", False)
    assert os.listdir(directory) == ["disk"]


@pytest.mark.parametrize("option", [(), ("--check",)])
def test_an_owner_that_cannot_be_had_is_refused_before_anything_is_made(
    option: tuple[str, ...],
) -> None:
    """Also by a check, and before a base image is looked at, or converted."""
    with ordinary_user.public_directory() as place:
        given = ("ensure", place / "disk", "--base", place / "gone", *option)
        finished = subprocess.run(
            ordinary_user.command(*command(*given, "--owner", "root:root")),
            capture_output=True,
            text=True,
            check=False,
            env=environment(XDG_RUNTIME_DIR=str(place)),
        )
        assert not (place / "disk").exists()
    assert finished.returncode == 2
    assert "owner 0:0: only root may give files to others" in finished.stderr


@pytest.mark.filesystems("ext4", "xfs")
def test_whatever_ends_it_the_next_one_has_a_whole_disk(directory: Path) -> None:
    """At any moment: nothing is left, the old disk is whole, or the new one is."""
    base, disk = directory / "base", directory / "disk"
    base.write_bytes(os.urandom(MIB) * 96)
    given = ("ensure", disk, "--base", base, "--base-format", "raw", "--size", "128M")
    full = ("--extra-spec", "allocpolicy:performance.data=full")
    for made in (False, True):
        for delay in (0.25, 0.4):
            disk.unlink(missing_ok=True)
            if made:
                assert allocpolicy(*given).status == 0
            with subprocess.Popen(
                command(*given, "--strategy", "performance", *full),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
            ) as process:
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
            if disk.exists():
                assert "leaks" not in images.check(disk)
            else:
                assert not made
            finished = allocpolicy(*given, "--strategy", "performance", *full)
            assert finished.status == 0, finished.stderr
            assert images.same_content(disk, base, formats=("qcow2", "raw"))
            assert sorted(os.listdir(directory)) == ["base", "disk"]


@pytest.mark.parametrize("option", ["--check", "--dry-run"])
def test_the_command_tells_by_its_exit_status_whether_anything_changes(
    tmp_path: Path, option: str
) -> None:
    given = ("ensure", tmp_path / "disk", "--size", SIZE, "-f", "json")
    detailed = (*given, "--detailed-exitcode")
    assert allocpolicy(*given, option).status == 0
    assert allocpolicy(*detailed, option).status == CHANGES
    assert not (tmp_path / "disk").exists()
    assert allocpolicy(*detailed).status == CHANGES
    assert allocpolicy(*detailed, option).status == 0
    finished = allocpolicy(*detailed)
    assert (finished.status, finished.document["changed"]) == (0, False)
    larger = (*detailed, "--size", "1M")
    assert [allocpolicy(*larger).status, allocpolicy(*larger, option).status] == [2, 2]


def test_the_other_commands_tell_it_as_well(tmp_path: Path) -> None:
    """A failure's status stays."""
    disk, detailed = tmp_path / "disk", "--detailed-exitcode"
    for given, statuses in (
        (("provision", disk, "--size", SIZE), (CHANGES, CHANGES)),
        (("resize", disk, 2 * SIZE), (CHANGES, CHANGES)),
        (("resize", disk, 2 * SIZE), (0, 0)),
        (("apply", disk, "--strategy", "space"), (CHANGES, CHANGES)),
        (("apply", disk), (0, 0)),
        (("apply", disk, "--label", "a=b"), (CHANGES, CHANGES)),
        (("apply", disk, tmp_path / "gone", "--label", "a=c"), (2, 2)),
    ):
        dry_run = allocpolicy(*given, detailed, "--dry-run")
        assert (dry_run.status, allocpolicy(*given, detailed).status) == statuses


def test_an_ordinary_process_says_the_same(tmp_path: Path) -> None:
    """As cron, Ansible and Terraform start it."""
    given = ("ensure", tmp_path / "disk", "--size", SIZE, "--detailed-exitcode")
    assert [allocpolicy_process(*given).status for _ in range(2)] == [CHANGES, 0]
