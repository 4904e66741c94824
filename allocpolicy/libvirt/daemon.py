"""libvirt's daemon: whether it looks for hooks, and telling it to.

It looks for programs when it starts and when it gets SIGHUP (virHookInitialize in
libvirt's src/util/virhook.c). If it found none for QEMU, it runs none; if it found any,
it lists the directory again at each start of a VM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.record import dataclass

NAMES = ("libvirtd", "virtqemud")  #: the daemons that start QEMU
RUN = Path("/run")  #: RUNSTATEDIR of distributions' builds
_TOLD = "user.allocpolicy.told"
_DELETED = " (deleted)"  # proc_pid_exe(5), after an upgrade
_STARTED = 22  # proc_pid_stat(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A daemon that runs."""

    name: str  #: its program
    pid: int  #: its number
    ticks: int  #: when it started, in clock ticks since the machine did

    @property
    def started(self) -> float:
        """Return when it started, in seconds since the epoch, by today's clock."""
        return _machine_started() + self.ticks / os.sysconf("SC_CLK_TCK")

    @property
    def command(self) -> str:
        """Return the command that tells it to look for hooks."""
        return f"kill -HUP {self.pid}"

    @property
    def mark(self) -> bytes:
        """Return what no other process has, nor this number's next."""
        return f"{self.pid} {self.ticks}".encode()


def _machine_started() -> float:
    """Return when the machine did, by today's clock.

    On a busy machine time passes between two looks at clocks: the quickest one counts.
    """
    looks = []
    for _ in range(5):
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        now = time.time()
        spent = time.clock_gettime(time.CLOCK_BOOTTIME) - before
        looks.append((spent, now - before))
    return min(looks)[1]


def running(directory: Path) -> tuple[Daemon, ...]:
    """Return the daemons that run, and see this directory for hooks.

    Each has written its number into a file, and the process has the daemon's program.

    :raises PermissionError: when only root can tell.
    """
    found = (_running(name) for name in NAMES)
    return tuple(one for one in found if one and _sees(one, directory))


def tell(daemon: Daemon, hook: Path) -> None:
    """Have the daemon look for hooks; nothing is restarted. It is noted at the hook.

    :raises OSError: when it ended meanwhile, or it is not ours to tell.
    """
    process = os.pidfd_open(daemon.pid)
    try:
        if _process(daemon.name, daemon.pid) != daemon:
            raise ProcessLookupError
        signal.pidfd_send_signal(process, signal.SIGHUP)
    finally:
        os.close(process)
    with contextlib.suppress(OSError):  # it isn't known later
        os.setxattr(hook, _TOLD, daemon.mark)


def knows(daemon: Daemon, hook: Path) -> str | None:
    """Return why it is certain that the daemon runs the hook; None: it is not.

    Whether somebody sent it SIGHUP can't be seen.
    """
    with contextlib.suppress(OSError):
        if os.getxattr(hook, _TOLD) == daemon.mark:
            return "it was told by install-hook --reload"
    if _since(hook) < daemon.started:
        return "it was started since"
    others = (one for one in _programs(hook) if _since(one) < daemon.started)
    if (other := next(others, None)) is not None:
        return f"{other} was there when it was started, so it looks at each start"
    return None


def _running(name: str) -> Daemon | None:
    try:
        pid = int((RUN / f"{name}.pid").read_text(encoding="ascii"))
        return _process(name, pid)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None


def _process(name: str, pid: int) -> Daemon | None:
    """Return the process if it has the daemon's program.

    :raises OSError: when there is none, or it may not be asked.
    """
    program = os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
    said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # the second field, in parentheses, may hold anything
    fields = ["", "", *said.rpartition(")")[2].split()]
    if Path(program).name != name:
        return None
    return Daemon(name=name, pid=pid, ticks=int(fields[_STARTED - 1]))


def _sees(daemon: Daemon, directory: Path) -> bool:
    """Return whether the path leads the daemon to the same directory as us."""
    seen = Path(f"/proc/{daemon.pid}/root{directory.absolute()}")
    try:
        return seen.samefile(directory)
    except OSError:
        return False


def _programs(hook: Path) -> Iterator[Path]:
    """Yield the other hooks for QEMU that libvirt runs."""
    beside = (one for one in hook.parent.iterdir() if one != hook)
    for path in (hook.parent.parent / "qemu", *sorted(beside)):
        with contextlib.suppress(OSError):
            if stat.S_ISREG(path.stat().st_mode) and os.access(path, os.X_OK):
                yield path


def _since(path: Path) -> float:
    """Return since when the name has been what it is, at the latest."""
    return max(path.stat().st_ctime, path.lstat().st_ctime)
