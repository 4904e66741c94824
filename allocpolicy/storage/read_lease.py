"""Read leases on files (fcntl(2), F_SETLEASE with F_RDLCK): nobody writes to the file.

The kernel refuses a read lease while a process has the file open for writing, a shared
writable mapping of a closed descriptor included. Whoever opens it for writing later
waits (/proc/sys/fs/lease-break-time, 45 s) and breaks the lease, which F_GETLEASE
shows; so does truncate(2). Any number of processes may hold one, on descriptors that
are open for reading only; on whose files, `lease` says.
"""

from __future__ import annotations

import fcntl

from allocpolicy.storage import lease


def take(fd: int) -> bool:
    """Hold a read lease until the descriptor is closed; return whether that works.

    It doesn't where leases prove nothing (`lease.are_whole`), nor where they are not
    `lease.are_ours`.

    :raises BlockingIOError: while a process has the file open for writing.
    """
    if not lease.are_whole(fd):
        return False
    try:
        lease.tell(fd)
        lease.change(fd, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno not in lease.NO_LEASES:
            raise
        return False
    return True


def is_held(fd: int) -> bool:
    """Return whether the descriptor holds a read lease that is intact."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK
