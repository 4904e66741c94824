"""Work on an existing disk, in a process that the kernel kills when it is opened.

A lease that is asked before a write may be gone at the write: a process can be stopped
in between for longer than the kernel lets an opener wait (45 s). So the work is done by
a child, and the kernel announces to it by SIGKILL that somebody opens the disk: the
opener still waits, and the child writes nothing more, even if it was stopped. What
remains is one system call that had begun, and takes longer than an opener waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy import wording
from allocpolicy.errors import Error, ImageError, WorkerLost
from allocpolicy.progress import Progress, Watcher, unwatched
from allocpolicy.storage import lease, libc
from allocpolicy.storage.signals import interrupts_postponed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Taken = Callable[[int], None]
Work = Callable[[Watcher, Taken], None]

_PR_SET_PDEATHSIG = 1  # prctl(2)
_SIGNALS_SEEN = 0.5  # seconds
_STOPPED = (
    "another process opened it meanwhile, and the work on it was stopped before that"
    " process got in: {whole}what was done so far stays; stop that process, and try"
    " again"
)
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
) -> None:
    """Do the work in a child that lives no longer than the lease on the disk is whole.

    :param work: gets a watcher and a ``has_taken``, which lead to the given ones; what
        it raises is raised here.
    :param fd: the open disk, under a lease of this process.
    :param whole: whether the work leaves the disk whole wherever it is stopped.
    :raises ImageError: when another process opened the disk meanwhile.
    :raises WorkerLost: when the child was killed by anything else.
    """
    from multiprocessing import Pipe  # as late: few disks need a child

    receiver, sender = Pipe(duplex=False)
    with receiver, _child(work, sender, fd=fd):
        sender.close()
        if _relayed(receiver, watch=watch, has_taken=has_taken):
            return
    raise _lost(fd, path=path, whole=whole)


def _relayed(receiver: Connection, *, watch: Watcher, has_taken: Taken) -> bool:
    """Pass on what the child sends; return whether it came to its end.

    :raises BaseException: what the work raised.
    """
    progress = unwatched("")
    with contextlib.suppress(EOFError):
        while True:
            # A Ctrl-C between Python's look for signals and read(2) is seen only when
            # something else ends the wait.
            while not receiver.poll(_SIGNALS_SEEN):
                pass
            match receiver.recv():
                case "begin", description:
                    progress = watch(description)
                case "progress", done, total:
                    progress(done=done, total=total)
                case "taken", storage:
                    has_taken(storage)
                case "raised", (error, cause):
                    raise error from cause
                case "ended", _:
                    return True
                case other:
                    raise AssertionError(other)
    return False


@contextlib.contextmanager
def _child(work: Work, sender: Connection, *, fd: int) -> Iterator[None]:
    """Fork the child; kill it afterwards, whatever it is doing."""
    parent, pid = os.getpid(), 0
    try:
        # Python prints and ignores what is raised in its own hooks after a fork.
        with interrupts_postponed():
            pid = os.fork()
            if not pid:
                try:  # nothing of the parent's may run at the end: no atexit, no flush
                    _serve(work, sender, fd=fd, parent=parent)
                finally:
                    os._exit(0)
        yield
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)  # nobody else has the pid before waitpid
            os.waitpid(pid, 0)
            lease.tell(fd)


def _serve(work: Work, sender: Connection, *, fd: int, parent: int) -> None:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
        libc.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        lease.kill_when_broken(fd)
        # What happened before those calls sent no signal here.
        if os.getppid() == parent and lease.is_whole(fd):
            work(*_senders(sender))
            sender.send(("ended", None))
    except BaseException as error:  # noqa: BLE001  (the parent raises it)
        sender.send(("raised", (_picklable(error), _picklable(error.__cause__))))


def _senders(sender: Connection) -> tuple[Watcher, Taken]:
    def progress(*, done: int, total: int) -> None:
        sender.send(("progress", done, total))

    def watch(description: str, /) -> Progress:
        sender.send(("begin", description))
        return progress

    def has_taken(storage: int) -> None:
        sender.send(("taken", storage))

    return watch, has_taken


def _picklable(error: BaseException | None) -> BaseException | None:
    import pickle

    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (our own)
    except BaseException:  # noqa: BLE001  (whatever its class does)
        return Error(wording.raised(error)) if error else None
    return error


def _lost(fd: int, *, path: Path, whole: bool) -> Error:
    """Return why the child ended before its work did."""
    if lease.is_whole(fd):
        reason = f"{path}: the process that worked on it was killed"
        return WorkerLost(f"{reason}; it is whole: try again" if whole else reason)
    stopped = _STOPPED.format(whole="it is whole, and " if whole else "")
    return ImageError(path, stopped if lease.is_breaking(fd) else _UNKNOWN)
