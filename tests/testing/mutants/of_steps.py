"""Mutants whose steps leave something behind, or change the process they run in."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allocpolicy import Plan, Progress, Request, Step, Target
from tests.testing.mutants.healthy import Healthy

POOL = "pool"  # in the disk's directory

# What is left running, until the test ends it.
left: list[subprocess.Popen[bytes]] = []
enough = threading.Event()


def end_what_was_left() -> None:
    """End the processes and threads that steps left running, and wait for them."""
    while left:
        left.pop().communicate()
    enough.set()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()
    enough.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Does(Step):
    """Does one thing more; ``path`` is the destination, which a step shouldn't know."""

    what: Callable[[Target, Path], object]
    path: Path

    def describe(self) -> str:
        return "do something more"

    def run(self, target: Target, progress: Progress) -> None:
        self.what(target, self.path)


class _DoesMore(Healthy):
    """Has one step more in the plan for a new disk."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        """Do what no step should."""

    def plan(self, *, request: Request, **given: Any) -> Plan:
        plan = super().plan(request=request, **given)
        step = Does(what=type(self).more, path=request.destination)
        return replace(plan, steps=(*plan.steps, step))


@dataclass(frozen=True, slots=True, kw_only=True)
class Brews(Does):
    """Does it, and says that what it makes is a function of a few words."""

    recipe = "something more"


class _Brews(_DoesMore):
    """Has a step with a recipe after the one that creates the disk."""

    def plan(self, *, request: Request, **given: Any) -> Plan:
        plan = Healthy.plan(self, request=request, **given)
        step = Brews(what=type(self).more, path=request.destination)
        return replace(plan, steps=(plan.steps[0], step, *plan.steps[1:]))


class BrewsByTheClock(_Brews):
    """States a recipe, and writes the time of day into the disk."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        os.pwrite(target.fd, str(time.time_ns()).encode(), 0)


class BrewsByThePlace(_Brews):
    """States a recipe, and writes its directory into the disk."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        os.pwrite(target.fd, os.fsencode(target.directory), 0)


class LeavesAFileBeside(_DoesMore):
    """Leaves a temporary file in the disk's directory."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        (target.directory / "healthy.tmp").write_bytes(b"x")


class LeavesAFileElsewhere(_DoesMore):
    """Leaves a temporary file in /tmp."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        fd, _ = tempfile.mkstemp()
        os.close(fd)


class LeavesADescriptor(_DoesMore):
    """Leaves a descriptor open."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        os.open(target.directory, os.O_RDONLY)


class LeavesAChild(_DoesMore):
    """Leaves a process running."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        left.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))


class LeavesAThread(_DoesMore):
    """Leaves a thread running."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        threading.Thread(target=enough.wait, daemon=True).start()


class ChangesTheUmask(_DoesMore):
    """Changes the umask."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        os.umask(0o027)


class ChangesTheDirectory(_DoesMore):
    """Changes the working directory."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        os.chdir(target.directory)


class ChangesTheEnvironment(_DoesMore):
    """Changes the environment."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        os.environ["HEALTHY"] = "1"


class Prints(_DoesMore):
    """Prints to stdout."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        print(f"reserved {path}")  # noqa: T201


class WritesToStdout(_DoesMore):
    """Writes to the descriptor of stdout, as a child would."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        os.write(1, b"reserved\n")


class ClosesTheDescriptor(_DoesMore):
    """Closes the descriptor, as `os.fdopen` in a with statement does."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        os.close(target.fd)


class ReplacesTheDescriptor(_DoesMore):
    """Puts another file in the descriptor's place."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        fd = os.open(target.directory, os.O_RDWR | os.O_TMPFILE, 0o600)
        os.ftruncate(fd, os.fstat(target.fd).st_size)
        os.dup2(fd, target.fd)
        os.close(fd)


class ChangesTheFlags(_DoesMore):
    """Makes the descriptor append."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        import fcntl

        fcntl.fcntl(target.fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)


class LogsWhereItRuns(_DoesMore):
    """Writes a log into the current directory."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        Path("healthy.log").write_text("made a disk")


class BlocksSignals(_DoesMore):
    """Blocks SIGINT while it works, and from then on."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        import signal

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


class SetsATimer(_DoesMore):
    """Sets an alarm for a program that hangs, and leaves it."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        import signal

        signal.alarm(3600)


class IgnoresSigterm(_DoesMore):
    """Ignores SIGTERM from then on."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class PublishesItself(_DoesMore):
    """Gives the disk its name itself."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        shutil.copyfile(f"/proc/self/fd/{target.fd}", path)


class TakesFromAPool(_DoesMore):
    """Removes a ready-made disk from its pool before the new one is published."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        (target.directory / POOL / "ready").unlink()


class MarksItAsMade(_DoesMore):
    """Writes a file beside the disk before the disk is published."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        path.with_suffix(".made").touch()


class Exits(_DoesMore):
    """Ends the program where it can't go on."""

    @staticmethod
    def more(target: Target, path: Path) -> None:
        raise SystemExit(1)
