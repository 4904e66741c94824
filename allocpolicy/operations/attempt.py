"""A finished attempt at a job, and the report of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.images.stamp import Stamp
from allocpolicy.record import dataclass
from allocpolicy.report.report import Report

if TYPE_CHECKING:
    from allocpolicy.execute.foreseen import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A finished job: its outcome, or after a dry run the room that it would have.

    ``unmet``: why the disk was left as it is, short of its policy; None: it wasn't.
    ``remarks``: what of the reason is no choice of the plan's, and worth knowing.
    ``stamp_before``: the stamp that the disk will have by then, if it isn't its own.
    """

    job: Job
    reason: str
    plan: Plan
    steps: tuple[str, ...]
    done: Outcome | Room
    unmet: str | None = None
    remarks: tuple[str, ...] = ()
    stamp_before: Stamp | None = None

    @property
    def outcome(self) -> Outcome | None:
        """Return the outcome, None after a dry run."""
        return self.done if isinstance(self.done, Outcome) else None

    @property
    def room(self) -> Room | None:
        """Return the room that was found by a dry run, None after the work."""
        return None if isinstance(self.done, Outcome) else self.done

    @property
    def records(self) -> tuple[str, ...]:
        """Return what was changed, or would be, of what an existing disk records."""
        job, outcome = self.job, self.outcome
        if job.disk is None:
            return ()
        from allocpolicy.report import recording

        before = job.disk.disk.stamp
        if outcome is not None:
            return recording.lines(before, outcome.stamp or before)
        from allocpolicy.execute import untouched

        if not untouched.will_be_recorded(job, job.disk.disk):
            return ()
        return recording.lines(self.stamp_before or before, job.stamp)


def report(attempt: Attempt, *, elapsed: float) -> Report:
    """Return what was requested, what was effective, and what was observed.

    :param elapsed: seconds in process.
    """
    job, outcome, room = attempt.job, attempt.outcome, attempt.room
    base = job.request.base
    pending = (base.pending,) if base and base.pending else ()
    mode, records = attempt.plan.mode, attempt.records
    if mode is Mode.NOTHING and records:
        mode = Mode.STAMPED
    return Report(
        disk=job.request.destination,
        operation=job.request.operation,
        mode=mode,
        changed=mode is not Mode.NOTHING,
        format=job.request.format,
        virtual_size=job.request.virtual_size,
        before=job.current,
        requested=job.requested,
        effective=job.selection,
        effective_reason=attempt.reason,
        unmet=attempt.unmet,
        remarks=attempt.remarks,
        labels=job.request.labels,
        observed=outcome.observation if outcome else None,
        verdict=outcome.verdict if outcome else None,
        attachment=outcome.attachment if outcome else None,
        stamp=outcome.stamp if outcome else None,
        steps=(*pending, *attempt.steps, *records),
        peak_bytes=attempt.plan.peak_bytes,
        promised_bytes=attempt.plan.promised_bytes,
        reserved_bytes=attempt.plan.reserved_bytes,
        headroom_bytes=room.headroom if room else None,
        free_bytes=room.free if room else None,
        free_after_bytes=room.free_after if room else None,
        elapsed=elapsed,
        cloned=outcome.cloned if outcome else None,
        prepared=outcome.prepared if outcome else None,
    )
