"""This release and an earlier one, each measured in a process of its own interpreter.

A worker does what it is asked over a pipe and says what that cost, so that its start
and its imports are not measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import disks
from benchmarks.cost import Cost
from benchmarks.measure import DISK, Contender

BEFORE = "before"
_WORKER = Path(__file__).with_name("worker.py")
_PATIENCE = 10  # seconds for a worker to end by itself


class WorkerFailed(Exception):
    """What was asked of a release failed there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release of ours: the interpreter that it is installed for.

    ``label`` tells its records from those of this release, which has none; ``what`` is
    what people call it.
    """

    python: Path = field(default_factory=lambda: Path(sys.executable))
    label: str = ""
    what: str = ""

    def named(self, contender: str) -> str:
        """Return a contender's name with the release in it."""
        return f"{contender}, {self.label}" if self.label else contender

    @property
    def command(self) -> str:
        """Return the command that is installed beside the interpreter."""
        return str(self.python.with_name("allocpolicy"))

    def compile(self) -> None:
        """Compile its modules, as an installation does; Python may be told not to."""
        code = (
            "import allocpolicy as a, allocpolicy_strategies as b, compileall as c\n"
            "for place in (*a.__path__, *b.__path__): c.compile_dir(place, quiet=1)"
        )
        subprocess.run(
            [self.python, "-P", "-c", code], check=True, env=self.environment
        )

    @property
    def environment(self) -> dict[str, str] | None:
        """Return the environment to run it in: ours, or one that doesn't lead to us."""
        if not self.label:
            return None
        kept = dict(os.environ)
        for name in ("PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"):
            kept.pop(name, None)
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What a disk is to be; ``prepared``: it may be cloned from a prepared one."""

    size: int
    base: str | None = None
    format: str = "qcow2"
    strategy: str = "performance"
    options: Mapping[str, str] = field(default_factory=dict)
    prepared: bool = False

    def order(self, directory: Path) -> dict[str, Any]:
        """Return the order of it in a directory, as a worker takes it."""
        specs = {
            f"allocpolicy:{self.strategy}.{name}": value
            for name, value in self.options.items()
        }
        return {
            "destination": str(directory / DISK),
            "size": self.size,
            "base": str(directory / disks.BASES[self.base]) if self.base else None,
            "base_format": self.base,
            "format": self.format,
            "extra_specs": {"allocpolicy:strategy": self.strategy} | specs,
        }


class Worker:
    """A running worker of a release."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self._process = subprocess.Popen(
            [release.python, "-P", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=release.environment,
        )
        about = self._answer()
        self.version = str(about["version"])
        self.place = str(about["place"])
        #: whether it can prepare disks
        self.prepares = bool(about["prepares"])

    def ask(
        self, action: str, disk: Disk, *, directory: Path, profile: str = ""
    ) -> Cost:
        """Let it ``provision`` or ``prepare`` a disk, and return what that cost.

        :raises WorkerFailed: with the error that it met.
        """
        request = {
            "action": action,
            "order": disk.order(directory),
            "locks": str(directory),
            "prepared": disk.prepared,
            "profile": profile or None,
        }
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Cost(seconds=answer["seconds"], cpu=answer["cpu"])

    def provisioning(self, name: str, disk: Disk) -> Contender:
        """Return its `provision()` of a disk as a contender."""

        def make(directory: Path) -> Cost:
            return self.ask("provision", disk, directory=directory)

        return Contender(name=self.release.named(name), make=make)

    def prepare(self, disk: Disk, *, directory: Path) -> str:
        """Prepare a disk where the release can; return why it is not, or nothing.

        Otherwise one may be prepared while others are measured.
        """
        if not self.prepares:
            return "this release prepares no disks"
        try:
            self.ask("prepare", disk, directory=directory)
        except WorkerFailed as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(f"{self.release.python} ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            failed = WorkerFailed(answer["error"])
            failed.add_note(answer["traceback"])
            raise failed
        return answer


@contextmanager
def working(releases: Sequence[Release]) -> Iterator[list[Worker]]:
    """Start a worker of each release; they have ended afterwards.

    :raises WorkerFailed: when two of them are the same installation.
    """
    with ExitStack() as stack:
        workers = []
        for release in releases:
            worker = Worker(release)
            stack.callback(worker.close)
            workers.append(worker)
        if len({worker.place for worker in workers}) < len(workers):
            raise WorkerFailed(f"{releases[-1].python} has this release, not another")
        yield workers


def warm_up(workers: Sequence[Worker], *, directory: Path, base: str | None) -> None:
    """Let each make a small disk once, so that imports are not measured."""
    for worker in workers:
        worker.ask("provision", Disk(size=16 << 30, base=base), directory=directory)
        (directory / DISK).unlink()
