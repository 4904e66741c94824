"""A change of a disk, told once it has begun: when it is done, or has failed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from allocpolicy.contract.facts import Observation
from allocpolicy.execute.job import Job
from allocpolicy.images.stamp import Stamp
from allocpolicy.log import telling
from allocpolicy.log.entry import Entry, State
from allocpolicy.record import replace
from allocpolicy.report.report import Report


class Change:
    """A change that may begin, and what is told of it."""

    def __init__(self, operation: str, disk: Path, *, started: float) -> None:
        self._operation, self._disk, self._started = operation, disk, started
        self._strategy: str | None = None
        self._before: State | None = None
        self._has_begun = False

    def of(self, job: Job) -> Job:
        """Return the job, whose begin is taken note of."""
        stamp = job.disk.disk.stamp if job.disk else None
        self.is_of(state(job.current, stamp), strategy=job.selection.strategy)
        return replace(job, begins=self.begins)

    def is_of(self, before: State | None, *, strategy: str | None) -> None:
        """Take note of what the disk is, and of the strategy that it is to have."""
        self._before, self._strategy = before, strategy

    def begins(self) -> None:
        """Take note that from now on the disk, or a file of it, is being changed."""
        self._has_begun = True

    def done(self, report: Report) -> None:
        """Tell what was done, if that is anything."""
        if report.dry_run or not report.changed:
            return
        self._disk = report.disk
        self.is_done(
            state(report.observed, report.stamp),
            strategy=report.effective.strategy,
            mode=str(report.mode),
            reason=report.effective_reason,
        )

    def is_done(
        self,
        after: State | None,
        *,
        strategy: str | None,
        mode: str | None = None,
        reason: str = "",
    ) -> None:
        """Tell that it is done, and what the disk is now."""
        self._tell(after=after, strategy=strategy, mode=mode, reason=reason)

    def failed(self, error: BaseException) -> None:
        """Tell that it failed, if it had begun and was not done."""
        if self._has_begun:
            self._tell(strategy=self._strategy, error=telling.said(error))

    def _tell(
        self,
        *,
        after: State | None = None,
        strategy: str | None,
        mode: str | None = None,
        reason: str = "",
        error: str | None = None,
    ) -> None:
        self._has_begun = False
        telling.tell(
            Entry(
                operation=self._operation,
                disk=self._disk,
                strategy=strategy,
                mode=mode,
                before=self._before,
                after=after,
                reason=reason,
                error=error,
                seconds=time.monotonic() - self._started,
            )
        )


def never(error: BaseException) -> bool:
    """Return that what failed isn't done again."""
    return False


@contextlib.contextmanager
def change(
    operation: str,
    disk: Path,
    *,
    started: float | None = None,
    repeats: Callable[[BaseException], bool] = never,
) -> Iterator[Change]:
    """Yield the change that the body makes; tell if that fails.

    :param started: when the work began, by the monotonic clock; None: now.
    :param repeats: says of a failure that the body is done again, which isn't told.
    """
    one = Change(operation, disk, started=started or time.monotonic())
    try:
        yield one
    except BaseException as error:
        if not repeats(error):
            one.failed(error)
        raise


def state(seen: Observation | None, stamp: Stamp | None) -> State | None:
    """Return what is told of a disk; None: it isn't there."""
    if seen is None:
        return None
    return {
        **recorded(stamp),
        "format": str(seen.format),
        "virtual_size": seen.virtual_size,
        "actual_size": seen.actual_size,
        "mapping": str(seen.mapping),
        "allocation": str(seen.allocation),
        "guaranteed": seen.guaranteed,
    }


def recorded(stamp: Stamp | None) -> State:
    """Return what is told of a disk that nobody has measured: its policy."""
    effective, requested = (stamp.effective, stamp.requested) if stamp else (None, None)
    return {
        "strategy": effective.strategy if effective else None,
        "options": dict(effective.options) if effective else {},
        "requested": requested.strategy if requested else None,
        "labels": dict(stamp.asked.labels) if stamp and stamp.asked else {},
    }
