"""Preparing in the background what the first disk of a recipe was made of.

A clone of the finished disk (`execute.spare`) is handed to a process of our own. The
process is started by exec and not by fork, has its own session and the lowest priority,
and outlives the one that started it; when it is killed, nothing is left. What fails
there is told where changes are told, and never disturbs the request.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import allocpolicy
from allocpolicy.errors import Error
from allocpolicy.execute import preparing
from allocpolicy.execute import recipe as recipes
from allocpolicy.execute.preparing import Preparation
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import named_lock
from allocpolicy.storage.directories import Directory

_FIRST = 3  # descriptor of the child's, after those of its standard streams
_WANTED, _DISK, _LOCK, _DISKS = range(_FIRST, _FIRST + 4)
_APART = 32  # above all of those
_CODE = """\
import sys
sys.path[:] = {paths}
from allocpolicy.execute import background
background.main()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """A finished disk without a name, to be prepared; and the recipe's lock."""

    wanted: Preparation
    disk: int
    lock: int

    def start(self) -> None:
        """Have it prepared; return at once. What can't be started is left.

        The disk is there by now: nothing is a reason to fail.
        """
        with contextlib.suppress(Exception), contextlib.ExitStack() as stack:
            told = os.memfd_create("wanted")
            stack.callback(os.close, told)
            with open(os.dup(told), "wb") as file:
                pickle.dump(_portable(self.wanted), file)
            given = (told, self.disk, self.lock, self.wanted.disks.fd)
            _reap(_spawned([_high(fd, stack) for fd in given]))


def _portable(wanted: Preparation) -> Preparation:
    disks = Directory(path=wanted.disks.path, fd=_DISKS)
    return replace(wanted, disks=disks)


def _high(fd: int, stack: contextlib.ExitStack) -> int:
    """Return a copy of a descriptor whose number is none of the child's."""
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _APART)
    stack.callback(os.close, copy)
    return copy


def _spawned(given: Sequence[int]) -> int:
    """Start the process with these descriptors; return its number."""
    code = _CODE.format(paths=ascii(_paths()))
    null = [(os.POSIX_SPAWN_OPEN, one, os.devnull, os.O_RDWR, 0) for one in range(3)]
    passed = [
        (os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(given, _FIRST)
    ]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", code],
        os.environ,
        file_actions=[*null, *passed],
        setsigmask=(),
    )


def _paths() -> list[str]:
    """Return where the process finds this package, and what that imports."""
    package = str(Path(allocpolicy.__file__).absolute().parent.parent)
    return [package, *filter(os.path.isabs, sys.path)]


def _reap(process: int) -> None:
    """Wait for the process in a thread, lest it stays as a zombie.

    :raises RuntimeError: where no thread may be started: under RLIMIT_NPROC or a
        cgroup's pids.max, and while Python ends.
    """
    import threading

    def wait() -> None:
        with contextlib.suppress(ChildProcessError):  # somebody else waited for it
            os.waitpid(process, 0)

    threading.Thread(target=wait, daemon=True, name="prepare").start()


def main() -> None:
    """Prepare what was handed over: the process that `Spare.start` starts."""
    _close_others()
    os.setsid()
    os.nice(19)
    os.chdir("/")
    with open(_WANTED, "rb") as file:
        file.seek(0)
        wanted: Preparation = pickle.load(file)  # noqa: S301  (of `Spare.start`)
    from allocpolicy.log import telling

    receiver = partial(telling.sent, to=wanted.policy.change_log)
    # What fails was told.
    with (
        contextlib.suppress(Error, OSError),
        telling.told_to(receiver, command="prepare"),
        _released(wanted),
    ):
        preparing.prepare(wanted, disk=_DISK)


def _close_others() -> None:
    """Close what the program that started us has left open to its children.

    What is open is listed: in a container the limit may be 2**30, and what was opened
    before the limit was lowered lies above it.
    """
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > _DISKS:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(number)


@contextlib.contextmanager
def _released(wanted: Preparation) -> Iterator[None]:
    """Remove the file of the recipe's lock at the end; a process that ends drops it."""
    try:
        yield
    finally:
        policy = wanted.policy
        name = recipes.lock(wanted.recipe, disks=wanted.disks, policy=policy)
        named_lock.forget(name, lock_path=policy.lock_path)
