"""What an operation of libvirt tells the start of the domain that follows it.

When a guest is migrated here, or restored, its start looks like any other; before it,
libvirt runs the hook with another operation (qemuMigrationDstPrepareFresh,
qemuDomainRestoreInternal and qemuDomainObjRestore, libvirt 9.0). An operation that
ends before the start, or has none, leaves a note that gets old.
"""

from __future__ import annotations

from pathlib import Path

from allocpolicy.storage import named_lock, notes

RUNNING = {
    "migrate": "the guest is migrated here",
    "restore": "the guest goes on where it was saved",
}  #: why a disk must stay as the running guest knows it, by operation
_SECONDS = 600.0  # libvirt makes the disks of a migration first, perhaps full ones


def leave(operation: str, *, uuid: str) -> None:
    """Leave the next start of the domain a note of the operation.

    :raises InvalidRequest: when there is no place for it that only we can change.
    """
    notes.leave(f"{uuid}.{operation}", directory=_directory(), seconds=_SECONDS)


def take(uuid: str) -> str | None:
    """Return why the disks must stay as they are, as the last operation said."""
    taken = [
        reason
        for operation, reason in RUNNING.items()
        if notes.take(f"{uuid}.{operation}", directory=_directory(), seconds=_SECONDS)
    ]
    return taken[0] if taken else None


def _directory() -> Path:
    return named_lock.own_directory() / "libvirt"
