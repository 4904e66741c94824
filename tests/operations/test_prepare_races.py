"""Prepared disks under attack: races, kills, full filesystems, other users."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import FreshFilesystem
from tests.harness import filesystems, images, ordinary_user
from tests.harness.cli import allocpolicy, at_once, command, environment, provision
from tests.harness.images import MIB

REFLINK = pytest.mark.filesystems("xfs", "btrfs")
FAST = ("--strategy", "performance")
SIZE = ("--size", "20G")  # 3.2 MiB of tables: worth to be prepared by itself
RECORDS = ".prepared"
KILLS = 8  # spread over what the command takes


@pytest.fixture
def base(directory: Path) -> Path:
    made = directory / "base.raw"
    made.write_bytes(os.urandom(8 * MIB))
    return made


def entries(directory: Path) -> list[Path]:
    return sorted((directory / "_base").glob("*.prepared.*"))


def ended(running: Iterable[subprocess.Popen[bytes]]) -> list[int]:
    return [one.wait() for one in running]


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdout=subprocess.DEVNULL,
    )


def check(disk: Path, base: Path) -> None:
    assert images.same_content(disk, base, formats=("qcow2", "raw"))
    images.check(disk)
    assert images.fully_mapped(disk)


@REFLINK
@pytest.mark.parametrize("twenty", range(2))
def test_twenty_disks_are_made_while_all_is_pruned(
    directory: Path, base: Path, twenty: int
) -> None:
    """Each is whole, whether it was cloned or made; also what is prepared meanwhile."""
    settled(base)
    if twenty:
        allocpolicy("cache", "prepare", directory, "--base", base, *SIZE, *FAST)
    disks = [directory / f"disk-{number}" for number in range(20)]
    prune = ("cache", "prune", directory, "--prepared")
    (directory / "_base").mkdir(exist_ok=True)
    commands: list[tuple[object, ...]] = []
    for number, disk in enumerate(disks):
        commands.append(("provision", disk, "--base", base, *SIZE, *FAST))
        if number % 2:
            commands.append(prune)
    for finished in at_once(*commands):
        assert finished.status == 0, finished.stderr
    filesystems.wait_for_preparing(directory)
    assert allocpolicy("cache", "prune", directory, "--prepared").status == 0
    assert entries(directory) == []
    assert [*(directory / "_base" / RECORDS).glob("*")] == []
    for disk in disks:
        check(disk, base)


def settled(base: Path) -> None:
    """Wait until another write to the image is sure to show in its ctime."""
    while base.stat().st_ctime > time.time() - 2.1:
        time.sleep(0.1)


@REFLINK
def test_a_kill_leaves_nothing_that_is_believed(directory: Path, base: Path) -> None:
    """At any moment: the next command prepares it, and no temporary name stays."""
    arguments = ("cache", "prepare", directory, "--base", base, *SIZE, *FAST)
    begun = time.monotonic()
    assert ended([start(*arguments)]) == [0]
    whole = time.monotonic() - begun
    assert allocpolicy("cache", "prune", directory, "--prepared").status == 0
    for number in range(KILLS):
        killed = start(*arguments)
        time.sleep(whole * number / KILLS)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        names = {one.name for one in directory.iterdir()}
        assert names <= {"base.raw", "_base"}
        report = provision(directory / "disk", "--base", base, *SIZE, *FAST)
        check(directory / "disk", base)
        (directory / "disk").unlink()
        assert report["cloned"] in (None, *map(str, entries(directory)))
        filesystems.wait_for_preparing(directory)
        if (directory / "_base").exists():
            pruned = allocpolicy("cache", "prune", directory, "--prepared")
            assert pruned.status == 0, pruned.stderr
        assert entries(directory) == []
    made = allocpolicy(*arguments, "-f", "json").document
    assert made["changed"]
    assert [str(one) for one in entries(directory)] == [made["path"]]


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_full_filesystem_gets_none(
    kind: str, fresh_filesystem: FreshFilesystem
) -> None:
    """Exit status 3, and nothing is left; nothing of others is taken either."""
    mount_point = fresh_filesystem(kind)
    filesystems.leave_free(mount_point, MIB)
    filled = {one.name for one in mount_point.rglob("*")}
    finished = allocpolicy("cache", "prepare", mount_point, "--size", "1T", *FAST)
    assert finished.status == 3, finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert {one.name for one in mount_point.rglob("*")} <= filled | {"_base"}


@pytest.mark.parametrize("limit", [3, 10])
def test_a_quota_that_is_used_up_gets_none(
    fresh_filesystem: FreshFilesystem, limit: int
) -> None:
    """It is a lack of space, of the steps or of what is kept; nothing is left."""
    mount_point = fresh_filesystem("btrfs")
    directory = mount_point / "disks"
    for said in (
        ("quota", "enable", mount_point),
        ("subvolume", "create", directory),
        ("qgroup", "limit", str(limit * MIB), directory),
    ):
        filesystems.run("btrfs", "-q", *map(str, said))
    finished = allocpolicy("cache", "prepare", directory, "--size", "64G", *FAST)
    assert finished.status == 3, finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert entries(directory) == []
    assert {one.name for one in directory.iterdir()} <= {"_base"}


@REFLINK
def test_a_cache_that_may_only_be_read_is_cloned_from(
    directory: Path, base: Path
) -> None:
    """Nothing is added to it, and nothing fails for it but what would add something."""
    order = ("--base", base, *SIZE, *FAST)
    assert allocpolicy("cache", "prepare", directory, *order).status == 0
    cache = directory / "_base"
    filesystems.run("mount", "--bind", str(cache), str(cache))
    filesystems.run("mount", "-o", "remount,bind,ro", str(cache))
    try:
        [prepared] = entries(directory)
        report = provision(directory / "one", *order)
        assert report["cloned"] in (str(prepared), None)
        other = ("--base", base, "--size", "21G", *FAST)
        assert provision(directory / "two", *other)["cloned"] is None
        refused = allocpolicy("cache", "prepare", directory, *other)
        assert refused.status in (2, 5), refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert entries(directory) == [prepared]
        assert allocpolicy("cache", "list", directory).status == 0
        filesystems.wait_for_preparing(directory)
    finally:
        filesystems.unmount(cache)
    check(directory / "one", base)
    check(directory / "two", base)


@REFLINK
def test_other_users_neither_read_nor_need_it(directory: Path) -> None:
    """What root prepared is root's; a user prepares his own where he may."""
    with ordinary_user.public_directory() as public, bound(directory, public) as place:
        os.chown(place, ordinary_user.UID, ordinary_user.UID)
        roots = allocpolicy("cache", "prepare", place, *SIZE, *FAST)
        assert roots.status == 0, roots.stderr
        [prepared] = entries(place)

        def run(*arguments: object) -> subprocess.CompletedProcess[str]:
            locks = {"OS_ALLOCPOLICY__LOCK_PATH": str(public / "locks")}
            return subprocess.run(
                ordinary_user.command(*command(*arguments)),
                capture_output=True,
                text=True,
                check=False,
                env=environment(HOME="/nonexistent", **locks),
                cwd=public,
            )

        made = run("provision", place / "disk", *SIZE, *FAST)
        assert made.returncode == 0, made.stderr
        images.check(place / "disk")
        for other in ("list", "prune"):
            finished = run("cache", other, place)
            assert finished.returncode == 0, finished.stderr
        filesystems.wait_for_preparing(place)
        assert prepared.exists()
        report = provision(place / "again", *SIZE, *FAST)
        assert report["cloned"] == str(prepared)


@contextlib.contextmanager
def bound(directory: Path, public: Path) -> Iterator[Path]:
    """Yield another path of the directory, to which everybody has a way."""
    place = public / "disks"
    place.mkdir()
    filesystems.run("mount", "--bind", str(directory), str(place))
    try:
        yield place
    finally:
        filesystems.unmount(place)
