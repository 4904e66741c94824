"""Leases on files: F_SETLEASE of fcntl(2) tells whether a file is open elsewhere."""

from __future__ import annotations

import errno
import fcntl
import signal
import threading

# The filesystem has no leases (NFS), or the file is neither ours nor are we root.
_NO_LEASES = frozenset({errno.EINVAL, errno.ENOLCK, errno.EACCES, errno.EPERM})


def is_open_elsewhere(fd: int) -> bool:
    """Return whether somebody else has the file open; False where it can't be told.

    ``fd`` must be our only descriptor of the file. A write lease is refused while
    anybody else has the file open; ours is dropped at once. Somebody who opens the
    file in between breaks it by SIGIO, whose default action kills: it is ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("SIGIO can be ignored from the main thread only")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno in _NO_LEASES:
            return False
        if error.errno != errno.EAGAIN:
            raise
        return True
    finally:
        signal.signal(signal.SIGIO, before)
    return False
