"""Work on a new file, in a child that is killed when its time is over.

Asking between chunks is not enough: one chunk, or one fsync(2), can take minutes on
storage that is slow or throttled. A killed child ends with the system call that it is
in; nobody waits for that, and its file, which has no name, ends with it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from ctypes import c_int64
from typing import TYPE_CHECKING

from allocpolicy.errors import BeyondLimits, InvalidRequest, WorkerLost
from allocpolicy.execute.job import Job
from allocpolicy.progress import Progress, Watcher, unwatched
from allocpolicy.storage import libc, named_lock

if TYPE_CHECKING:
    from allocpolicy.execute.child import Taken
    from allocpolicy.execute.hold import Hold

_LOOK = 0.25  # seconds between two looks at the lease
_BRIEF = 1.0  # seconds
_GONE = 0.2  # seconds, in which most children are gone once they are killed
_WINDOW = 8 << 20  # bytes, beside which no more wait to be written
# sync_file_range(2)
_WAIT_BEFORE, _WRITE = 1, 2


def check(job: Job) -> None:
    """Check that there is time left for the job's rewrite.

    :raises BeyondLimits: when there is none.
    """
    if job.until is not None and time.monotonic() >= job.until:
        assert job.limits is not None and job.limits.seconds is not None
        reason = f"it takes longer than {job.limits.seconds:g} s"
        raise BeyondLimits(job.request.destination, reason)


@contextlib.contextmanager
def patience(job: Job | None) -> Iterator[None]:
    """Wait for locks in the body no longer than the job's rewrite may take.

    :raises BeyondLimits: when that is over before.
    """
    if job is None or job.until is None:
        yield
        return
    check(job)
    try:
        with named_lock.patience(job.until - time.monotonic()):
            yield
    except InvalidRequest:
        check(job)
        raise


def run(
    work: Callable[[Watcher, Taken], object],
    job: Job,
    hold: Hold,
    *,
    fd: int,
    has_taken: Taken,
) -> object:
    """Do the work in a child until the job's time is over; return its answer.

    :param work: gets a watcher and a ``has_taken``, which lead to the given ones; what
        it raises is raised here, and its answer is one of the built-in types.
    :param fd: the file that it writes to.
    :raises BeyondLimits: when the time is over.
    :raises ImageError: when another process opened the disk meanwhile.
    :raises WorkerLost: when the child was killed by anything else.
    """
    from allocpolicy.execute import child

    assert job.until is not None
    until = job.until

    def waiting() -> float:
        check(job)
        hold.require()
        return min(_LOOK, until - time.monotonic())

    def steady(watch: Watcher, has_taken: Taken) -> object:
        return work(_written_back(watch, fd=fd), has_taken)

    with child.forked(steady, apart=True, patience=_GONE) as one:
        ended, answer = one.relayed(
            watch=job.watch, has_taken=has_taken, waiting=waiting
        )
    if not ended:
        raise WorkerLost(
            f"{job.request.destination}: the process that worked on its copy was"
            " killed; it is whole: try again"
        )
    check(job)
    return answer


def briefly(work: Callable[[], object], job: Job) -> object:
    """Do the work in a child until the job's time is over; return its answer.

    Where little is left of that, for a second.

    :raises TimeoutError: when that is too short; the work may be done all the same.
    :raises BaseException: what the work raised.
    """
    from allocpolicy.execute import child

    assert job.until is not None
    until = max(job.until, time.monotonic() + _BRIEF)

    def waiting() -> float:
        if time.monotonic() >= until:
            raise TimeoutError
        return until - time.monotonic()

    with child.forked(lambda *_: work(), apart=True, patience=_GONE) as one:
        return one.relayed(watch=unwatched, has_taken=lambda _: None, waiting=waiting)[
            1
        ]


def _written_back(watch: Watcher, *, fd: int) -> Watcher:
    """Return the watcher; what is written through the page cache gets to the disk.

    Otherwise fsync(2) would take the more time the more there is, at the end.
    """

    def watched(description: str, /) -> Progress:
        progress, before = watch(description), 0

        def advance(*, done: int, total: int) -> None:
            nonlocal before
            if done - before >= _WINDOW:
                before = done
                flags = _WAIT_BEFORE | _WRITE
                libc.call("sync_file_range", fd, c_int64(0), c_int64(0), flags)
            progress(done=done, total=total)

        return advance

    return watched
