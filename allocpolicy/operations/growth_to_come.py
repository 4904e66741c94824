"""A growth after a rewrite, before either is done: what it would take.

How the rewritten disk grows is planned once it is there. As a rewrite has room for the
whole disk, a larger one is foreseen to take, reserve and promise in proportion.
"""

from __future__ import annotations

from allocpolicy.contract.plan import Mode, Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Operation
from allocpolicy.errors import Error
from allocpolicy.execute import rehearsal
from allocpolicy.execute.foreseen import Rehearsal
from allocpolicy.operations import planned
from allocpolicy.operations.change_order import Change
from allocpolicy.progress import unwatched
from allocpolicy.record import replace
from allocpolicy.report.report import Report
from allocpolicy.storage import directories
from allocpolicy.wording import format_size

_REMARK = "that is for its growth, once it is rewritten"


def foreseen(rewrite: Report, wanted: Change, size: int, *, policy: Policy) -> Report:
    """Return the report of the growth; check that there will be room for it.

    :param rewrite: the dry run's report of the rewrite that comes before.
    :raises InvalidRequest: when one disk may not be promised so much.
    :raises NotEnoughSpace: when it would not fit any more.
    """
    with planned.disk(
        replace(wanted, dry_run=True),
        operation=Operation.APPLY,
        policy=policy,
        watch=unwatched,
        locks=frozenset(),
    ) as one:
        plan, job = one.part
        job = replace(job, rehearsal=Rehearsal())
        growth = _growth(plan, present=rewrite.virtual_size, size=size)
        with directories.readable(job.directory) as directory:
            rehearsal.admit(plan, job, directory=directory)
            try:
                room = rehearsal.admit(growth, job, directory=directory)
            except Error as error:
                error.remark = "; ".join(filter(None, (error.remark, _REMARK)))
                raise
    return replace(
        rewrite,
        operation=Operation.RESIZE,
        virtual_size=size,
        effective_reason="its growth is planned once it is rewritten",
        steps=(f"grow it to {format_size(size)}",),
        peak_bytes=growth.peak_bytes,
        promised_bytes=growth.promised_bytes,
        reserved_bytes=growth.reserved_bytes,
        headroom_bytes=room.headroom,
        free_after_bytes=room.free_after,
    )


def _growth(rewrite: Plan, *, present: int, size: int) -> Plan:
    """Return the plan of a growth, as far as it is foreseen; it has no steps.

    What isn't reserved takes storage for its metadata alone.
    """

    def more(whole: int) -> int:
        return -(-whole * size // present) - whole

    promised, reserved = more(rewrite.promised_bytes), more(rewrite.reserved_bytes)
    metadata = max(0, promised - (size - present))
    return Plan(
        mode=Mode.IN_PLACE,
        steps=(),
        peak_bytes=reserved or metadata,
        promised_bytes=rewrite.promised_bytes + promised,
        reserved_bytes=reserved,
        written=rewrite.written,
    )
