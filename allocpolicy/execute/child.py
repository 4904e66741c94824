"""Work in a child of this process, which can be killed whatever it is doing.

Its progress, its errors and its end come back through a pipe. A child that is inside a
system call ends with that: who can't wait so long leaves it behind, killed.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from allocpolicy import wording
from allocpolicy.errors import Error
from allocpolicy.progress import Progress, Watcher, unwatched
from allocpolicy.storage import libc
from allocpolicy.storage.signals import interrupts_postponed, left_to_parent

Taken = Callable[[int], None]
Work = Callable[[Watcher, Taken], object]

_PR_SET_PDEATHSIG = 1  # prctl(2)
SIGNALS_SEEN = 0.5  #: seconds; the longest wait
_LENGTH = struct.Struct("=Q")  # of a message
_PAUSE = 0.005  # seconds
_SOON = 0.02  # seconds between two messages of progress
_left: list[int] = []  # killed children that were not gone at once


class Child:
    """A running child."""

    def __init__(self, pid: int, receiver: int) -> None:
        self.pid = pid
        self._receiver = receiver

    def relayed(
        self,
        *,
        watch: Watcher,
        has_taken: Taken,
        waiting: Callable[[], float] = lambda: SIGNALS_SEEN,
    ) -> tuple[bool, object]:
        """Pass on what the child sends; return whether it ended, and its answer.

        :param waiting: says before each wait how long that may be; it may raise.
        :raises BaseException: what the work raised.
        """
        progress = unwatched("")
        for kind, content in self._messages(waiting):
            match kind:
                case "begin":
                    progress = watch(content)
                case "progress":
                    progress(done=content[0], total=content[1])
                case "taken":
                    has_taken(content)
                case "raised":
                    error, cause = content
                    raise error from cause
                case _:  # the work's end
                    return True, content
        return False, None

    def end(self, *, patience: float | None = None) -> None:
        """Kill the child, and wait until it is gone, at most so many seconds."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # and whatever it started
        os.kill(self.pid, signal.SIGKILL)  # nobody else has the pid before waitpid
        if patience is None:
            os.waitpid(self.pid, 0)
            return
        until = time.monotonic() + patience
        while not (gone := _is_gone(self.pid)) and time.monotonic() < until:
            _wait(self.pid, seconds=patience)
        if not gone:
            _left.append(self.pid)

    def _messages(self, waiting: Callable[[], float]) -> Iterator[tuple[str, Any]]:
        """Yield what the child sends, until it is gone."""
        while True:
            # A Ctrl-C between Python's look for signals and read(2) is seen only when
            # something else ends the wait.
            while not self._is_readable(waiting()):
                pass
            head = self._read(_LENGTH.size)
            content = head and self._read(*_LENGTH.unpack(head))
            if not content:
                return
            yield _parsed(content)

    def _is_readable(self, seconds: float) -> bool:
        from select import select  # as pickle: few disks need a child

        return bool(select([self._receiver], [], [], max(0.0, seconds))[0])

    def _read(self, length: int) -> bytes | None:
        content = b""
        while len(content) < length:
            part = os.read(self._receiver, length - len(content))
            if not part:
                return None
            content += part
        return content


def _wait(pid: int, *, seconds: float) -> None:
    """Wait until a child is gone, or for a moment."""
    from select import select

    try:
        fd = os.pidfd_open(pid)
    except OSError:  # before Linux 5.3, or a sandbox
        time.sleep(_PAUSE)
        return
    try:
        select([fd], [], [], seconds)
    finally:
        os.close(fd)


def _is_gone(pid: int) -> bool:
    try:
        return bool(os.waitpid(pid, os.WNOHANG)[0])
    except ChildProcessError:  # it was our parent's, before that forked
        return True


@contextlib.contextmanager
def forked(
    work: Work,
    *,
    begins: Callable[[], bool] = lambda: True,
    apart: bool = False,
    patience: float | None = None,
) -> Iterator[Child]:
    """Fork a child that works; afterwards kill it, whatever it is doing.

    :param begins: is called in the child, and says whether it works at all.
    :param apart: it keeps nobody waiting who reads our standard output or error.
    :param patience: seconds to wait for its end; None: as long as that takes.
    """
    _left[:] = [pid for pid in _left if not _is_gone(pid)]
    receiver, sender = os.pipe()
    try:
        parent, child = os.getpid(), None
        try:
            # Python prints and ignores what is raised in its own hooks after a fork.
            with interrupts_postponed():
                pid = os.fork()
                if not pid:
                    try:  # nothing of the parent's may run at the end: no flush
                        _serve(work, sender, begins=begins, apart=apart, parent=parent)
                    finally:
                        os._exit(0)
                child = Child(pid, receiver)
            os.close(sender)
            sender = -1
            yield child
        finally:
            if child is not None:
                child.end(patience=patience)
    finally:
        os.close(receiver)
        if sender >= 0:
            os.close(sender)


def _serve(
    work: Work, sender: int, *, begins: Callable[[], bool], apart: bool, parent: int
) -> None:
    try:
        left_to_parent()
        libc.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        if apart:
            _be_apart()
        # What happened before that call sent no signal here.
        if os.getppid() == parent and begins():
            _send(sender, "ended", work(*_senders(sender)))
    except BaseException as error:  # noqa: BLE001  (the parent raises it)
        both = _picklable(error), _picklable(error.__cause__)
        _send(sender, "raised", both)


def _be_apart() -> None:
    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


def _senders(sender: int) -> tuple[Watcher, Taken]:
    sent = -math.inf

    def progress(*, done: int, total: int) -> None:
        nonlocal sent
        now = time.monotonic()
        if now - sent >= _SOON or done >= total:  # nobody sees more
            sent = now
            _send(sender, "progress", (done, total))

    def watch(description: str, /) -> Progress:
        _send(sender, "begin", description)
        return progress

    def has_taken(storage: int) -> None:
        _send(sender, "taken", storage)

    return watch, has_taken


def _send(sender: int, kind: str, content: object) -> None:
    import pickle

    message = pickle.dumps((kind, content))
    rest = memoryview(_LENGTH.pack(len(message)) + message)
    while rest:
        rest = rest[os.write(sender, rest) :]


def _parsed(message: bytes) -> tuple[str, Any]:
    import pickle

    kind, content = pickle.loads(message)  # noqa: S301  (our own)
    return kind, content


def _picklable(error: BaseException | None) -> BaseException | None:
    import pickle

    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (our own)
    except BaseException:  # noqa: BLE001  (whatever its class does)
        return Error(wording.raised(error)) if error else None
    return error
