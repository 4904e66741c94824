"""Doing the same work on many things, in several processes.

The workers are forked and inherit their parent's memory. They take the numbers of
chunks from a shared pipe, and each returns its results through a pipe of its own. They
end when their parent ends, for any reason.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from allocpolicy.errors import WorkerLost
from allocpolicy.storage.signals import interrupts_postponed

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")

# All their numbers fit into a pipe (64 KiB, pipe(7)), so no writer has to wait.
_CHUNKS = 4096
_CHUNK = struct.Struct("=Q")
_LENGTH = struct.Struct("=Q")


def spread(
    things: Sequence[Thing], work: Callable[[Thing], Answer], *, workers: int
) -> Iterator[Answer]:
    """Yield ``work(thing)`` for each, in any order; answers must pickle.

    What ``work`` raises is raised here. When the iteration is abandoned, the workers
    are killed. With one worker, everything is done in this process.

    :raises WorkerLost: when a worker was killed.
    """
    if workers == 1:
        yield from map(work, things)
        return
    size = max(1, min(16, -(-len(things) // workers)), -(-len(things) // _CHUNKS))
    chunks = [things[start : start + size] for start in range(0, len(things), size)]
    with contextlib.ExitStack() as stack:
        source = _filled_pipe(len(chunks))
        try:
            found = [
                stack.enter_context(_worker(chunks, work, source))
                for _ in range(min(workers, len(chunks)))
            ]
        finally:
            os.close(source)
        yield from _collect(found, missing=len(things))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    pid: int
    answers: int


def _filled_pipe(count: int) -> int:
    """Return the reading end of a pipe that holds the numbers of all chunks."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(sink, b"".join(map(_CHUNK.pack, range(count))))
    finally:
        os.close(sink)
    return source


@contextlib.contextmanager
def _worker(
    chunks: Sequence[Sequence[Thing]], work: Callable[[Thing], Answer], source: int
) -> Iterator[_Worker]:
    """Fork a worker; kill it afterwards, whatever it is doing."""
    answers, sink = os.pipe2(os.O_CLOEXEC)
    pid = 0
    try:
        # After a fork Python runs hooks of its own modules, and prints and ignores
        # exceptions raised in them (os.register_at_fork).
        with interrupts_postponed():
            pid = os.fork()
            if pid == 0:
                # Nothing of the parent's may run at the end: no atexit, no flush.
                try:
                    os.close(answers)
                    # The parent handles it.
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                    _serve(chunks, work, source, sink)
                finally:
                    os._exit(0)
            os.close(sink)
        yield _Worker(pid=pid, answers=answers)
    finally:
        os.close(answers)
        if pid:
            os.kill(pid, signal.SIGKILL)  # nobody else has the pid before waitpid
            os.waitpid(pid, 0)
        else:
            os.close(sink)


def _serve(
    chunks: Sequence[Sequence[Thing]],
    work: Callable[[Thing], Answer],
    source: int,
    sink: int,
) -> None:
    # Others read the same pipe; one read of a few bytes is never split.
    while number := os.read(source, _CHUNK.size):
        try:
            chunk = chunks[_CHUNK.unpack(number)[0]]
            message = pickle.dumps((None, [work(thing) for thing in chunk]))
        except Exception as error:  # noqa: BLE001  (the parent raises it)
            message = pickle.dumps((error, []))
        with open(sink, "wb", closefd=False) as stream:
            stream.write(_LENGTH.pack(len(message)) + message)


def _collect(workers: Sequence[_Worker], *, missing: int) -> Iterator[Answer]:
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.answers, selectors.EVENT_READ)
        while missing:
            for key, _ in selector.select():
                message = _receive(key.fd)
                if message is None:
                    selector.unregister(key.fd)
                    if not selector.get_map():
                        raise WorkerLost(
                            "a worker process was killed, perhaps for lack of memory;"
                            " try again with fewer --jobs"
                        )
                    continue
                error, answers = pickle.loads(message)  # noqa: S301  (our own)
                if error is not None:
                    raise error
                missing -= len(answers)
                yield from answers


def _receive(fd: int) -> bytes | None:
    """Return the next message of a worker; None when it has ended."""
    head = _read(fd, _LENGTH.size)
    return None if len(head) < _LENGTH.size else _read(fd, _LENGTH.unpack(head)[0])


def _read(fd: int, length: int) -> bytes:
    """Return the next bytes; fewer when the other end is closed."""
    parts, left = [], length
    while left and (part := os.read(fd, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
