"""Having a task done by a worker, and what its refusal is to Nova."""

from __future__ import annotations

import logging
import sys

from nova import exception
from nova.compute import utils as compute_utils
from oslo_concurrency import processutils

from allocpolicy_nova_backend.task import Answer, Task, Why, read_answer, written

# -P: no module of the directory that nova-compute was started in
COMMAND = (sys.executable, "-P", "-m", "allocpolicy_nova_backend.worker")

LOG = logging.getLogger(__name__)


def do(task: Task) -> Answer:
    """Have a task done, and return what became of it.

    It counts among Nova's ``max_concurrent_disk_ops``. Whatever happens, the disk is
    the one before, or complete; one that was to be made is complete, or not there.

    :raises InternalError: when there is no answer.
    """
    try:
        with compute_utils.disk_ops_semaphore:
            said, _ = processutils.execute(*COMMAND, process_input=written(task))
        answer = read_answer(said)
    except (processutils.ProcessExecutionError, OSError, ValueError) as error:
        raise exception.InternalError(f"allocpolicy: {_last_line(error)}") from error
    LOG.info("%s: %s", task.disk, answer.strategy or answer.refusal)
    return answer


def raise_refusal(answer: Answer) -> None:
    """Raise what makes Nova do the right thing about a refusal, if it is one.

    :raises ComputeResourcesUnavailable: when another host may do it: Nova tries one.
    :raises InvalidDiskInfo: when no other host would: Nova gives up at once.
    :raises InternalError: when something here is broken: Nova tries another host.
    """
    said = f"allocpolicy: {answer.refusal}"
    match answer.why:
        case None:
            return
        case Why.ROOM:
            raise exception.ComputeResourcesUnavailable(reason=said)
        case Why.POLICY | Why.DISK:
            raise exception.InvalidDiskInfo(reason=said)
        case Why.FAULT:
            raise exception.InternalError(said)


def _last_line(error: Exception) -> str:
    """Return what a process said at its end, or else how it ended, in one line."""
    said = str(getattr(error, "stderr", "")).strip().splitlines()
    if not said and isinstance(error, processutils.ProcessExecutionError):
        return f"its worker said nothing, and ended with status {error.exit_code}"
    return said[-1] if said else " ".join(str(error).split())
