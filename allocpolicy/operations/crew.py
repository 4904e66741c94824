"""A stream of work done by several processes, answered in its order.

The workers are forked when there is something for them to do, and inherit this
process's memory. Each gets one thing at a time through a pipe of its own, and ends when
that is closed: so none outlives this process by more than the thing that it is at. What
a worker was at when it was killed has an answer, too, and another takes its place.

No thread is used: locks, leases and signals are a process's, and so is the interpreter.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from allocpolicy.errors import WorkerLost
from allocpolicy.record import dataclass
from allocpolicy.storage import lately, messages
from allocpolicy.storage.signals import Ended, ended_by_parent, interrupts_postponed

Thing = TypeVar("Thing")
Thing_contra = TypeVar("Thing_contra", contravariant=True)

#: answers that wait for those before them, and things in work: what a stream may take
WINDOW = 1024
#: seconds until it is looked whether a worker is gone whose pipe is open all the same
_LOOK = 1.0
_NOT_BEGUN = b""
_NO_WORKER = "no worker process can be started: {}; try again with fewer --jobs"


class Work(Protocol[Thing_contra]):
    """Makes the answer of a thing."""

    def __call__(self, thing: Thing_contra, /, *, late: contextlib.ExitStack) -> bytes:
        """Return it; what is to last until it is sent goes on the stack ``late``.

        An interrupt that it lets pass has come before anything was done.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """A process; what it is given goes into a pipe, and answers come out of another."""

    pid: int
    things: int
    answers: int

    def end(self) -> None:
        """Kill it, whatever it is doing."""
        if not self.is_gone:  # before it ends by itself, where nobody awaits it
            self.signal(signal.SIGKILL)
        os.close(self.things)
        os.close(self.answers)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def signal(self, number: int) -> None:
        """Send it a signal; nobody else has its pid before waitpid.

        But where a program ignores SIGCHLD, the kernel doesn't wait for that.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def is_gone(self) -> bool:
        """Whether it has ended. What a plugin forked there may keep its pipes open."""
        try:
            how = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.pid, how) is not None
        except ChildProcessError:
            return True

    def last_answer(self) -> bytes | None:
        """Return the answer that it gave before it ended; None: it gave none."""
        os.set_blocking(self.answers, False)
        with contextlib.suppress(BlockingIOError):
            return messages.receive(self.answers)
        return None


class Crew(Generic[Thing]):
    """Workers, and what they are at. Leaving its context kills them.

    :param work: makes the answer of a thing, in a worker; what it raises ends that. An
        interrupt is raised in it as `signals.Ended`, and is its own to answer.
    :param lost: the answer for a thing at which a worker was killed.
    :param workers: the most processes.
    :param first: gets the first thing before any worker is there: what it imports, they
        have.
    """

    def __init__(
        self,
        work: Work[Thing],
        *,
        lost: Callable[[Thing], bytes],
        workers: int,
        first: Callable[[Thing], None] | None = None,
    ) -> None:
        self._work, self._lost, self._most = work, lost, workers
        self._first = first
        self._idle: list[_Worker] = []
        self._busy: dict[int, tuple[_Worker, int, Thing]] = {}  # by answers' pipe
        self._selector = selectors.DefaultSelector()
        self._answered: dict[int, bytes] = {}
        self._given = self._told = 0
        self._is_waiting = self._is_at_end = self._is_interrupted = False

    def __enter__(self) -> Crew[Thing]:
        return self

    def __exit__(self, *_: object) -> None:
        with interrupts_postponed():
            for worker in (*self._idle, *(one for one, _, _ in self._busy.values())):
                worker.end()
            self._idle, self._busy = [], {}
            self._selector.close()

    def answers(
        self, things: Iterator[Thing | None], *, source: int | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (number, answer), in the order of the things, as soon as that allows.

        :param things: None among them says that there is none yet.
        :param source: the open pipe that will have more then.
        """
        while True:
            self._hand_out(things)
            yield from self._due()
            if self._is_at_end and not self._busy:
                return
            if self._busy or self._is_waiting:
                self._wait(source)

    def last_answers(self) -> Iterator[tuple[int, bytes]]:
        """Interrupt all work; yield the answers that are there then, in order.

        The first may be one that `answers` was interrupted with.
        """
        self._is_interrupted = True
        with interrupts_postponed():
            for worker, _, _ in self._busy.values():
                worker.signal(signal.SIGTERM)
        while self._busy:
            self._wait(None)
        for number in sorted(self._answered):
            yield number, self._answered.pop(number)

    def _due(self) -> Iterator[tuple[int, bytes]]:
        """Yield the answers whose turn it is; one counts as told once it was taken."""
        while self._told in self._answered:
            yield self._told, self._answered[self._told]
            self._answered.pop(self._told)
            self._told += 1

    def _hand_out(self, things: Iterator[Thing | None]) -> None:
        """Give things to workers that have none, as long as there are both."""
        while not self._is_at_end and self._has_room():
            try:
                thing = next(things)
            except StopIteration:
                self._is_at_end = True
                return
            self._is_waiting = thing is None
            if thing is None:
                return
            first, self._first = self._first, None
            if first is not None:
                first(thing)
            with interrupts_postponed():
                self._give(thing)

    def _has_room(self) -> bool:
        return len(self._busy) < self._most and self._given - self._told < WINDOW

    def _give(self, thing: Thing) -> None:
        """Have a worker begin with the thing; one that is gone has a successor.

        :raises WorkerLost: when there can't be any.
        """
        message = pickle.dumps(thing)
        while True:
            worker = self._idle.pop() if self._idle else self._begun()
            if worker is None:
                self._wait(None)
                continue
            if worker.is_gone:
                worker.end()
                continue
            try:
                messages.send(worker.things, message)
            except BrokenPipeError:
                worker.end()
                continue
            self._busy[worker.answers] = (worker, self._given, thing)
            self._selector.register(worker.answers, selectors.EVENT_READ)
            self._given += 1
            return

    def _begun(self) -> _Worker | None:
        """Return a new worker; None where others do the work that can be had.

        :raises WorkerLost: when there are none.
        """
        try:
            return self._forked()
        except OSError as error:  # EAGAIN, ENOMEM: of processes or of memory
            if not self._busy:
                raise WorkerLost(_NO_WORKER.format(error.strerror)) from error
            self._most = len(self._busy)
            return None

    def _forked(self) -> _Worker:
        with contextlib.ExitStack() as stack:
            pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
            (source, things), (answers, sink) = pipes
            for fd in (source, sink):
                stack.callback(os.close, fd)
            try:
                pid = os.fork()
            except OSError:
                os.close(things)
                os.close(answers)
                raise
            if pid == 0:
                # Nothing of the parent's may run at the end: no atexit, no flush.
                try:
                    ended_by_parent()
                    self._become_worker(things, answers)
                    with lately.remembered():
                        self._serve(source, sink)
                finally:
                    os._exit(0)
        return _Worker(pid=pid, things=things, answers=answers)

    def _become_worker(self, *ours: int) -> None:
        """Leave to the parent what is its own: pipes of others, and standard input."""
        others = (*self._idle, *(worker for worker, _, _ in self._busy.values()))
        for fd in (*ours, *(fd for one in others for fd in (one.things, one.answers))):
            os.close(fd)
        self._selector.close()
        nowhere = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nowhere, 0)
        os.close(nowhere)

    def _serve(self, source: int, sink: int) -> None:
        try:
            self._answer_each(source, sink)
        except Ended:  # a thing that was given, if any, isn't begun
            with interrupts_postponed():
                messages.send(sink, _NOT_BEGUN)

    def _answer_each(self, source: int, sink: int) -> None:
        while (message := messages.receive(source)) is not None:
            thing = pickle.loads(message)  # noqa: S301  (our own)
            with contextlib.ExitStack() as late:
                answer = self._work(thing, late=late)
                late.enter_context(interrupts_postponed())
                messages.send(sink, answer)

    def _wait(self, source: int | None) -> None:
        """Wait until a worker has answered or is gone, or there is more to do."""
        awaited = source if self._is_waiting else None
        if awaited is not None:
            self._selector.register(awaited, selectors.EVENT_READ)
        try:
            timeout = _LOOK if self._busy else None
            ready = [key.fd for key, _ in self._selector.select(timeout)]
        finally:
            if awaited is not None:
                self._selector.unregister(awaited)
        ready = ready or [fd for fd, (one, _, _) in self._busy.items() if one.is_gone]
        for fd in ready:
            if fd in self._busy:
                with interrupts_postponed():
                    self._take(fd)

    def _take(self, answers: int) -> None:
        """Take the answer of a worker, which is idle then, or gone."""
        worker, number, thing = self._busy[answers]
        is_gone = worker.is_gone
        message = worker.last_answer() if is_gone else messages.receive(answers)
        self._selector.unregister(answers)
        del self._busy[answers]
        if is_gone or message is None:
            worker.end()
        else:
            self._idle.append(worker)
        if message != _NOT_BEGUN or not self._is_interrupted:
            self._answered[number] = message or self._lost(thing)
