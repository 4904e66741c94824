"""What is said where a VM must not start, and its exit status: the command line's."""

from __future__ import annotations

import time
from collections.abc import Iterator

_UNEXPECTED = 5
#: what to do about a disk that a start doesn't rewrite
LATER = "when it is shut off, allocpolicy libvirt apply does it, or says why it can't"


def told(error: BaseException, *, domain: str, started: float) -> tuple[int, str]:
    """Return the exit status and the line for an error, which syslog is told, too.

    :param domain: its UUID, or its name as long as nothing else is known.
    :param started: `time.monotonic` of when the hook began.
    """
    try:
        return _told(error, domain=domain, started=started)
    except BaseException:  # noqa: BLE001  (no memory, or a broken installation)
        said = f"{type(error).__name__}: {ascii(str(error))[:150]}"
        return _UNEXPECTED, f"allocpolicy: the hook failed: {said}"


def _told(error: BaseException, *, domain: str, started: float) -> tuple[int, str]:
    from allocpolicy.errors import DomainError, Error
    from allocpolicy.libvirt import log
    from allocpolicy.libvirt.document import Malformed
    from allocpolicy.storage.signals import Ended
    from allocpolicy.wording import bounded

    if isinstance(error, Malformed):
        error = DomainError(bounded(str(error)))
    spent = 1000 * (time.monotonic() - started)
    said = _said(error)
    status = error.exit_status if isinstance(error, (Error, Ended)) else _UNEXPECTED
    passes = _is_ours(error) and _passes()
    outcome = "it starts without its policy" if passes else "it is not started"
    disks = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    named = f"domain {domain}: {disks}{said}"
    log.tell(f"{named}; {outcome}, {spent:.0f} ms", level=log.ERROR)
    if _is_ours(error):
        log.tell_traceback(error)
    if passes:
        return 0, ""
    path = str(getattr(error, "path", ""))
    return status, log.line(said, *_shorter(error), path=path)


def _shorter(error: BaseException) -> Iterator[str]:
    """Yield what is left of a message without what is good to know, but no more."""
    from allocpolicy.errors import BeyondLimits, Error, NotEnoughSpace
    from allocpolicy.wording import short

    if isinstance(error, BeyondLimits):
        yield str(error)

    if isinstance(error, Error) and error.remark:
        yield error.template.format_map(vars(error))
    if type(error) is NotEnoughSpace and error.needed > error.free:
        sizes = short(needed=error.needed, free=error.free)
        remedy = "free some space, or choose a smaller disk"
        yield f"{error.path}: not enough space: {sizes}; {remedy}"


def _said(error: BaseException) -> str:
    from allocpolicy.errors import BeyondLimits, Error
    from allocpolicy.storage.signals import Ended
    from allocpolicy.wording import raised

    if isinstance(error, Ended):
        return f"the hook was {error}"
    if isinstance(error, BeyondLimits):
        return f"{error}; {LATER}"
    if isinstance(error, Error):
        return str(error)
    reason = f"the hook failed unexpectedly: {raised(error)}"
    return f"{reason}; syslog has more; libvirt_on_error = pass starts VMs all the same"


def _is_ours(error: BaseException) -> bool:
    """Return whether it is a fault of allocpolicy's or a plugin's, not of the disk.

    Who ends the hook doesn't want its VM to start.
    """
    from allocpolicy.errors import Error, StorageFailed
    from allocpolicy.storage.signals import Ended

    if isinstance(error, Ended):
        return False
    if not isinstance(error, Error):
        return True
    return error.exit_status == _UNEXPECTED and not isinstance(error, StorageFailed)


def _passes() -> bool:
    """Return whether VMs start in spite of such faults; not if nobody can tell."""
    from allocpolicy.contract.policy import Otherwise
    from allocpolicy.errors import ConfigError
    from allocpolicy.resolve.policy import load_policy

    try:
        return load_policy().libvirt.on_error is Otherwise.PASS
    except ConfigError:
        return False
