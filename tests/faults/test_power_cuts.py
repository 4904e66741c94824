"""Wherever the power is cut: the disk is whole, old or new, or it is not there.

The device keeps what was flushed; of what was written since then it keeps any part, in
any order. A disk that a command said was done is there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from tests.faults.injection import spread
from tests.faults.laws import Oracle
from tests.faults.place import Place, copy
from tests.faults.scenarios import DISK, Effect, Scenario, scenarios
from tests.faults.tracing import Ended
from tests.harness.cli import Finished, allocpolicy
from tests.harness.filesystems import make_image, mount, remove_tree, unmount
from tests.harness.images import MIB, info
from tests.harness.write_log import Cut, Entry, Flag, entries, recorded, replay

pytestmark = [pytest.mark.system, pytest.mark.qemu]

KINDS = ("ext4", "xfs", "btrfs")
NAMES = {
    "provision none qcow2, base raw",
    "provision performance qcow2, base raw",
    "provision full qcow2, base raw",
    "provision space raw, base raw",
    "provision falloc raw, base raw",
    "provision none qcow2, base vmdk",
    "apply none to space, qcow2",
    "apply none to performance, qcow2",
    "apply performance, partly unmapped",
    "apply performance to full, qcow2",
    "apply full to performance, qcow2",
    "apply zero-fill to none, raw",
    "resize none qcow2, base raw",
    "resize performance qcow2, base raw",
    "resize full qcow2, base none",
    "resize space raw, base raw",
}
SCENARIOS = [one for one in scenarios() if one.name in NAMES]
# One of each kind: a new disk, a rewrite, a growth.
SAMPLE = {
    ("provision none qcow2, base raw", "ext4"),
    ("apply none to performance, qcow2", "xfs"),
    ("resize full qcow2, base none", "btrfs"),
}
PER_FAULT = 8  # cuts: they take less time
SIZE = 320 * MIB  # mkfs.xfs refuses less than 300
# All, and parts of what was not flushed. A block of 4 KiB is on the disk or it is
# not: btrfs and ext4 expect that of their superblocks.
LOSSES = (
    {"chance": 1.0},
    {"chance": 0.5},
    {"chance": 0.2, "seed": 1},
    {"chance": 0.8, "seed": 2},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A command's writes to a filesystem."""

    image: Path  # as it was before it was mounted for the command
    log: list[Entry]
    start: int  # entries before the command
    done: int  # entries when it had ended
    status: int


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try every command on every filesystem, or one on each for a few."""
    if "kind" in metafunc.fixturenames:
        few = metafunc.config.getoption("--faults") == "3"
        chosen = [
            (scenario, kind)
            for scenario, kind in product(SCENARIOS, KINDS)
            if not few or (scenario.name, kind) in SAMPLE
        ]
        ids = [f"{scenario}, {kind}" for scenario, kind in chosen]
        metafunc.parametrize(("scenario", "kind"), chosen, ids=ids)


def test_a_power_cut_leaves_the_old_or_the_new(
    scenario: Scenario,
    kind: str,
    tmpfs: Path,
    most: int | None,
    record_property: Callable[[str, object], None],
) -> None:
    with removed(tmpfs / "power") as directory:
        wrong, cuts = cut_everywhere(
            *(scenario, allocpolicy),
            kind=kind,
            directory=directory,
            most=most and most * PER_FAULT,
        )
    record_property("faults", {"power cut": cuts})
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def test_a_sync_that_is_missing_is_found(
    tmpfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The laws have teeth: without fsync(2) the new tables may be there in part."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)

    def synced_at_the_end(*arguments: object) -> Finished:
        finished = allocpolicy(*arguments)
        os.sync()
        return finished

    scenario = next(one for one in SCENARIOS if one.name.startswith("resize full"))
    with removed(tmpfs / "unsynced") as directory:
        wrong, _ = cut_everywhere(
            *(scenario, synced_at_the_end),
            kind="ext4",
            directory=directory,
            most=12,
        )
    assert any("qemu-img check" in law for law in wrong)


@contextmanager
def removed(directory: Path) -> Iterator[Path]:
    """Make a directory, and remove it afterwards with all in it."""
    directory.mkdir()
    try:
        yield directory
    finally:
        remove_tree(directory)


def cut_everywhere(
    scenario: Scenario,
    run: Callable[..., Finished],
    *,
    kind: str,
    directory: Path,
    most: int | None,
) -> tuple[list[str], int]:
    """Record the command, cut the power at each of its writes; return what is wrong."""
    image = make_image(kind, size=SIZE, directory=directory)
    mount_point = directory / "mnt"
    mount_point.mkdir()
    with mounted(kind, image, mount_point):
        place = Place(mount_point, scenario)
    subprocess.run(["fallocate", "--dig-holes", image], check=True)
    arguments = scenario.arguments(place.path)
    recording = record(kind, image, mount_point, partial(run, *arguments))
    oracle = Oracle(scenario, place, ended(recording.status))
    oracle.failed = True
    wrong = []
    everything = list(cuts(recording))
    chosen = {*spread(everything, most), everything[-1]}
    replayed = directory / "replayed"
    for cut in chosen:
        # Another file each time: a loop device that is looked at outlives its mount,
        # and mount(8) would take it again, with what it cached.
        replayed.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", recording.image, replayed], check=True)
        replay(replayed, recording.log, cut)
        with mounted(kind, replayed, mount_point):
            found = list(violations(oracle, recording, cut, arguments))
        wrong += [f"{cut}: {law}" for law in found]
    return wrong, len(chosen)


def record(
    kind: str, image: Path, mount_point: Path, run: Callable[[], Finished]
) -> Recording:
    """Run the command on the filesystem in the image, its writes recorded."""
    kept = image.with_suffix(".kept")
    copy(image, kept)
    with recorded(image) as writes:
        mount(kind, source=writes.device, mount_point=mount_point, options=("rw",))
        try:
            start = writes.length()
            finished = run()
            done = writes.length()
        finally:
            unmount(mount_point)
        log = entries(writes.log, first=0, last=done)
        before = len(entries(writes.log, first=0, last=start))
    assert finished.status == 0, finished.stderr
    return Recording(
        image=kept, log=log, start=before, done=len(log), status=finished.status
    )


def cuts(recording: Recording) -> Iterator[Cut]:
    """Yield a cut before each write of the command, and after the last."""
    for before in range(recording.start, recording.done + 1):
        flushed = before and recording.log[before - 1].flags & Flag.FLUSH
        for loss in LOSSES[:1] if flushed else LOSSES:
            yield Cut(before=before, **loss)  # type: ignore[arg-type]


def violations(
    oracle: Oracle, recording: Recording, cut: Cut, arguments: list[str]
) -> Iterator[str]:
    """Yield each law that does not hold on the filesystem that is mounted."""
    scenario, disk = oracle.scenario, oracle.place.path / DISK
    yield from oracle.wrong_files(ended(None))
    if cut.before >= recording.done:
        if not disk.exists():
            yield "the command had said that the disk is there"
        elif info(disk, format=scenario.format)["virtual-size"] != max(scenario.sizes):
            yield "the command had said that the disk was grown"
    exists = scenario.effect is Effect.CREATES and disk.exists()
    again = allocpolicy(*arguments)
    if again.status != (2 if exists else 0):
        yield f"the retry ended with {again.status}: {again.stderr.strip()}"
    if not exists:
        for law in oracle.wrong_files(ended(again.status)):
            yield f"after the retry: {law}"


def ended(status: int | None) -> Ended:
    return Ended(status=status, stdout="", stderr="", calls=())


@contextmanager
def mounted(kind: str, image: Path, mount_point: Path) -> Iterator[None]:
    mount(kind, source=image, mount_point=mount_point, options=("loop",))
    try:
        yield
    finally:
        unmount(mount_point)
