"""Work on an existing disk, in a process that the kernel kills when it is opened.

A lease that is asked before a write may be gone at the write: a process can be stopped
in between for longer than the kernel lets an opener wait (45 s). So the work is done by
a child, and the kernel announces to it by SIGKILL that somebody opens the disk: the
opener still waits, and the child writes nothing more, even if it was stopped. What
remains is one system call that had begun, and takes longer than an opener waits.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from allocpolicy.errors import Error, ImageError, WorkerLost
from allocpolicy.execute import child
from allocpolicy.execute.child import Taken, Work
from allocpolicy.progress import Watcher
from allocpolicy.storage import lease

_STOPPED = (
    "another process opened it meanwhile, and the work on it was stopped before that"
    " process got in: {whole}what was done so far stays; stop that process, and try"
    " again"
)
STOPPED_WHOLE = _STOPPED.format(whole="it is whole, and ")
_UNKNOWN = (
    "another process opened it meanwhile, and it is unknown whether that process got in"
    " before the work on it was stopped: check the disk before you rely on it"
)


def run(
    work: Work,
    *,
    fd: int,
    path: Path,
    watch: Watcher,
    has_taken: Taken,
    whole: bool = True,
    until: float | None = None,
) -> None:
    """Do the work in a child that lives no longer than the lease on the disk is whole.

    :param work: gets a watcher and a ``has_taken``, which lead to the given ones; what
        it raises is raised here.
    :param fd: the open disk, under a lease of this process.
    :param whole: whether the work leaves the disk whole wherever it is stopped.
    :param until: when it is stopped, by the monotonic clock; None: whenever it is done.
    :raises TimeoutError: when it was; nothing of it goes on.
    :raises ImageError: when another process opened the disk meanwhile.
    :raises WorkerLost: when the child was killed by anything else.
    """
    try:
        with child.forked(work, begins=partial(_begins, fd)) as one:
            waiting = partial(_left, until)
            ended, _ = one.relayed(watch=watch, has_taken=has_taken, waiting=waiting)
    finally:
        lease.tell(fd)
    if not ended:
        raise _lost(fd, path=path, whole=whole)


def _left(until: float | None) -> float:
    """Return how many seconds of the work may pass before the next look.

    :raises TimeoutError: when there are none.
    """
    if until is None:
        return child.SIGNALS_SEEN
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(child.SIGNALS_SEEN, left)


def _begins(fd: int) -> bool:
    """Let the kernel kill this process once the lease breaks; return if it is whole."""
    lease.kill_when_broken(fd)
    return lease.is_whole(fd)  # what happened before that call sent no signal here


def _lost(fd: int, *, path: Path, whole: bool) -> Error:
    """Return why the child ended before its work did."""
    if lease.is_whole(fd):
        reason = f"{path}: the process that worked on it was killed"
        return WorkerLost(f"{reason}; it is whole: try again" if whole else reason)
    stopped = STOPPED_WHOLE if whole else _STOPPED.format(whole="")
    return ImageError(path, stopped if lease.is_breaking(fd) else _UNKNOWN)
