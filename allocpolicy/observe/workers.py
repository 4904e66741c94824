"""Doing the same work on many things, in several processes.

The workers are forked and inherit their parent's memory. They take the numbers of
chunks from a shared pipe, note in shared memory what they are at, and each returns its
results through a pipe of its own. They end when their parent ends, for any reason.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import selectors
import signal
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

from allocpolicy.errors import WorkerLost
from allocpolicy.record import dataclass
from allocpolicy.storage import messages
from allocpolicy.storage.signals import interrupts_postponed, left_to_parent

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")

# All their numbers fit into a pipe (64 KiB, pipe(7)), so no writer has to wait.
_CHUNKS = 4096
_CHUNK = struct.Struct("=Q")
_PLACE = struct.Struct("=QQ")  # a chunk's number, and a thing's place in it
_NOWHERE = (1 << 64) - 1


def spread(
    things: Sequence[Thing],
    work: Callable[[Thing], Answer],
    *,
    workers: int,
    lost: Callable[[Thing], Answer] | None = None,
) -> Iterator[Answer]:
    """Yield ``work(thing)`` for each, in any order; answers must pickle.

    What ``work`` raises is raised here. When the iteration is abandoned, the workers
    are killed. With one worker, everything is done in this process.

    :param lost: the answer for a thing at which a worker was killed.
    :raises WorkerLost: when a worker was killed, and there is no such answer.
    """
    if workers == 1:
        yield from map(work, things)
        return
    while things:
        answered = yield from _round(things, work, workers=workers)
        if not answered.culprits and not answered.missing:
            return
        stuck = len(answered.missing) == len(things)  # none answered, none at fault
        if lost is None or stuck:
            raise WorkerLost(
                "a worker process was killed, perhaps for lack of memory; try again"
                " with fewer --jobs"
            )
        yield from map(lost, answered.culprits)
        things = answered.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered(Generic[Thing]):
    """What a round did not answer: what workers were killed at, and the rest."""

    culprits: Sequence[Thing]
    missing: Sequence[Thing]


def _round(
    things: Sequence[Thing], work: Callable[[Thing], Answer], *, workers: int
) -> Generator[Answer, None, _Answered[Thing]]:
    """Yield the answers of workers until all are there, or all workers are gone."""
    size = max(1, min(16, -(-len(things) // workers)), -(-len(things) // _CHUNKS))
    chunks = [things[start : start + size] for start in range(0, len(things), size)]
    count = min(workers, len(chunks))
    with contextlib.ExitStack() as stack:
        board = stack.enter_context(contextlib.closing(_Board(count)))
        source = _filled_pipe(len(chunks))
        try:
            found = [
                stack.enter_context(_worker(chunks, work, source, board.place(one)))
                for one in range(count)
            ]
        finally:
            os.close(source)
        answered = yield from _collect(found, missing=len(chunks))
        at = [board.read(one) for one in range(count)]
    unfinished = [number for number in range(len(chunks)) if number not in answered]
    culprits = {(number, place) for number, place in at if number in unfinished}
    return _Answered(
        culprits=[chunks[number][place] for number, place in sorted(culprits)],
        missing=[
            thing
            for number in unfinished
            for place, thing in enumerate(chunks[number])
            if (number, place) not in culprits
        ],
    )


class _Board:
    """Memory shared with the workers: where each of them is, (chunk, place in it)."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * _PLACE.size)
        for worker in range(workers):
            self.place(worker)(_NOWHERE, 0)

    def place(self, worker: int) -> Callable[[int, int], None]:
        """Return what notes where a worker is."""
        return partial(_PLACE.pack_into, self._memory, worker * _PLACE.size)

    def read(self, worker: int) -> tuple[int, int]:
        """Return where a worker is."""
        number, place = _PLACE.unpack_from(self._memory, worker * _PLACE.size)
        return number, place

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


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
    chunks: Sequence[Sequence[Thing]],
    work: Callable[[Thing], Answer],
    source: int,
    note: Callable[[int, int], None],
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
                    left_to_parent()
                    _serve(chunks, work, source, sink, note)
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
    note: Callable[[int, int], None],
) -> None:
    # Others read the same pipe; one read of a few bytes is never split.
    while number := os.read(source, _CHUNK.size):
        (chunk,) = _CHUNK.unpack(number)
        answers = []
        try:
            for place, thing in enumerate(chunks[chunk]):
                note(chunk, place)
                answers.append(work(thing))
            message = pickle.dumps((None, chunk, answers))
        except Exception as error:  # noqa: BLE001  (the parent raises it)
            message = pickle.dumps((error, chunk, []))
        messages.send(sink, message)


def _collect(
    workers: Sequence[_Worker], *, missing: int
) -> Generator[Answer, None, set[int]]:
    """Yield answers as they come; return the numbers of the chunks that have come.

    It ends when all chunks have, or when all workers have ended.
    """
    done: set[int] = set()
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.answers, selectors.EVENT_READ)
        while len(done) < missing and selector.get_map():
            for key, _ in selector.select():
                message = messages.receive(key.fd)
                if message is None:
                    selector.unregister(key.fd)
                    continue
                error, chunk, answers = pickle.loads(message)  # noqa: S301  (our own)
                if error is not None:
                    raise error
                done.add(chunk)
                yield from answers
    return done
