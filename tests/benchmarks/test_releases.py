"""A release of ours is measured in a process of its own, whatever it is asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy import inspect
from benchmarks import qemus
from benchmarks.cost import Stopwatch
from benchmarks.measure import DISK
from benchmarks.releases import BEFORE, Disk, Release, Worker, WorkerFailed, working

MIB = 1 << 20
BURNED = 0.1
BURN = f"import time\nwhile time.process_time() < {BURNED}: pass"


@pytest.fixture
def worker() -> Iterator[Worker]:
    with working([Release()]) as (one,):
        yield one


def test_the_cpu_of_a_child_is_counted() -> None:
    watch = Stopwatch(children_only=True)
    subprocess.run([sys.executable, "-I", "-S", "-c", BURN], check=True)
    # process_time and the resources that were used are rounded apart
    assert watch.read().cpu > BURNED * 0.9


def test_a_worker_makes_the_disk_that_it_is_asked_for(
    worker: Worker, tmp_path: Path
) -> None:
    cost = worker.ask("provision", Disk(size=8 * MIB), directory=tmp_path)
    assert cost.seconds > 0
    made = inspect(tmp_path / DISK)
    assert made.observed.virtual_size == 8 * MIB


def test_what_a_release_refuses_is_told_and_it_goes_on(
    worker: Worker, tmp_path: Path
) -> None:
    missing = Disk(size=8 * MIB, strategy="nonesuch")
    with pytest.raises(WorkerFailed, match="nonesuch"):
        worker.ask("provision", missing, directory=tmp_path)
    worker.ask("provision", Disk(size=8 * MIB), directory=tmp_path)


def test_a_profile_says_where_the_time_went(worker: Worker, tmp_path: Path) -> None:
    place = tmp_path / "profile.txt"
    disk = Disk(size=8 * MIB)
    worker.ask("provision", disk, directory=tmp_path, profile=str(place))
    assert "function calls" in place.read_text()


def test_this_release_is_not_taken_for_an_earlier_one() -> None:
    same = Release(label=BEFORE)
    with pytest.raises(WorkerFailed, match="not another"), working([Release(), same]):
        pass


@pytest.mark.qemu
def test_a_newer_qemu_that_is_not_to_be_had_is_said(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    qemu_img = subprocess.run(
        ["which", "qemu-img"], check=True, capture_output=True, text=True
    ).stdout.strip()
    (tmp_path / "qemu-img").symlink_to(qemu_img)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (only,) = qemus.found()
    assert not only.label
    assert "no newer QEMU is measured: apt-get is missing" in capsys.readouterr().err
