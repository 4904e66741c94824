"""The lock that a strategy names: held from its `observe` until the disk is published.

The order of locks is the same everywhere: those that strategies name first, sorted;
then that of an existing disk; then that of the filesystem. A strategy of an existing
disk is known only once the disk is locked and open: where it names a lock that isn't
held, everything is let go, and the work begins again with that lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from allocpolicy.contract.policy import Policy
from allocpolicy.execute.job import Job
from allocpolicy.registry import call
from allocpolicy.storage import named_lock

Result = TypeVar("Result")
_LOCKS = 8  # of one job: one for each strategy that is tried


class _Needed(Exception):
    """A lock that must be held before the disk is opened."""

    def __init__(self, job: Job, name: str) -> None:
        super().__init__(name)
        self.job = job
        self.name = name


@contextlib.contextmanager
def held(job: Job) -> Iterator[None]:
    """Hold the lock that the job's strategy names, if any.

    What gets no name, a dry run or a trial, doesn't wait for those that do.

    :raises InvalidRequest: when the lock is unavailable.
    """
    loaded, options = job.selection.loaded, job.selection.options
    name = call.exclusive(loaded, request=job.request, options=options)
    if name is None or name in job.locks or job.dry_run or job.trial:
        yield
        return
    if job.disk is not None:
        raise _Needed(job, name)
    with _all_held((name,), policy=job.policy):
        yield


def with_needed(
    work: Callable[[frozenset[str]], Result], *, policy: Policy, jobs: int = 1
) -> Result:
    """Do work under the locks that it turns out to need; return its result.

    :param work: gets the names of the locks that are held, for `Job.locks`.
    :param jobs: on how many disks it is.
    :raises StrategyFailed: when a strategy names another lock each time.
    """
    locks: frozenset[str] = frozenset()
    while True:
        try:
            with _all_held(locks, policy=policy):
                return work(locks)
        except _Needed as needed:
            if len(locks) == _LOCKS * jobs:
                reason = "it names another lock each time"
                raise needed.job.failure(reason, hook="exclusive") from needed
            locks |= {needed.name}


def _all_held(
    names: Iterable[str], *, policy: Policy
) -> contextlib.AbstractContextManager[None]:
    return named_lock.hold_all(
        map(_key, names), lock_path=policy.lock_path, transient=True
    )


def _key(name: str) -> str:
    """Return the lock's name in the lock directory, whatever characters it has."""
    return named_lock.key("exclusive", of=name.encode(errors="surrogatepass"))
