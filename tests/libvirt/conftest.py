"""Processes that pass for libvirt's daemons: their programs have these names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from allocpolicy.libvirt import daemon
from tests.harness.filesystems import require_program

# It tells that it started, each time that it gets SIGHUP, and that it has a new name.
SCRIPT = """
trap 'echo told' HUP
echo started
while kill -0 $PPID; do  # a signal ends reading, too
    read -r name && echo "$name" >/proc/$$/comm && echo named
done 2>/dev/null
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory in which daemons leave their numbers."""
    place = tmp_path / "run"
    place.mkdir()
    monkeypatch.setattr(daemon, "RUN", place)
    return place


@pytest.fixture
def start(tmp_path: Path, run_directory: Path) -> Iterator[Start]:
    """Start processes; their programs have a daemon's name, or another."""
    busybox = require_program("busybox")
    with ExitStack() as stack:
        # Where it is ignored, as under nohup(1), sh can't trap it.
        stack.callback(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

        def started(name: str, *, said: str | None = None) -> subprocess.Popen[str]:
            after_the_clock()
            copy = tmp_path / "sbin" / name
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(busybox, copy)
            process = stack.enter_context(
                subprocess.Popen(
                    ["sh", "-c", SCRIPT],
                    executable=copy,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout
            assert process.stdout.readline() == "started\n"
            after_the_clock()
            (run_directory / f"{said or name}.pid").write_text(f"{process.pid}\n")
            return process

        yield started


def after_the_clock() -> None:
    """Return when clock ticks, in which starts are told, are beyond what was before.

    So are those in which the kernel tells when files were changed.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    while time.clock_gettime(time.CLOCK_BOOTTIME) < before + 2 / ticks:
        os.sched_yield()
