"""Temporary names: of files that aren't complete, or that are being replaced.

Whoever makes one holds flock(2) on the file; `sweep` removes those whose makers are
gone. All temporary names come from this module.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from allocpolicy.storage import directories, lately, lease, qemu_lock
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.found import found, reopen
from allocpolicy.storage.inode import inode

PRIVATE = 0o600
_PREFIX, _SUFFIX = ".allocpolicy-", ".tmp"


def new_name(*, replacing: int | None = None) -> str:
    """Return a name that `sweep` removes once no process holds a lock on its file.

    :param replacing: the open file that is to get the name by an exchange: `sweep` then
        leaves it alone if it was written to after this.
    """
    unique = os.urandom(8).hex()
    if replacing is not None:
        unique += f"-{_state(os.fstat(replacing))}"
    return f"{_PREFIX}{unique}{_SUFFIX}"


def _state(status: os.stat_result) -> str:
    """Return which file it is, and in which state, for a name."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}"


def was_written_to(name: str, status: os.stat_result) -> bool:
    """Return whether the file got its temporary name by an exchange, and changed since.

    A process that had opened the disk just before a kill wrote to it: the name is all
    that its content has.
    """
    inode, _, _ = _state(status).partition("-")
    unique = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return f"-{inode}-" in unique and not unique.endswith(f"-{_state(status)}")


def is_temporary(name: str) -> bool:
    """Return whether the name is a temporary one."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def create(directory: int) -> tuple[str, int]:
    """Create a file in the open directory, mode 0600; return its temporary name and it.

    It is locked, and `sweep` leaves it alone until it is closed.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    while True:
        name = new_name()
        fd = os.open(name, flags, PRIVATE, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # otherwise a sweep came between open and lock
                return name, fd
        except BaseException:
            os.unlink(name, dir_fd=directory)
            os.close(fd)
            raise
        os.close(fd)


def sweep(directory: Directory) -> None:
    """Remove the directory's temporary names whose creators are gone.

    Nothing is removed that a process has open, as far as leases and QEMU's locks show
    it, or that was the disk and was written to since.

    :raises PermissionError: when the directory can't be listed.
    """
    key = sweep, inode(os.fstat(directory.fd))
    lately.recalled(key, lambda: _sweep(directory))


def _sweep(directory: Directory) -> None:
    with directories.readable(directory) as fd, os.scandir(fd) as entries:
        names = [entry.name for entry in entries if is_temporary(entry.name)]
        for name in names:
            with contextlib.suppress(OSError):
                _remove_if_abandoned(name, directory=fd)


def _remove_if_abandoned(name: str, *, directory: int) -> None:
    """Remove a temporary name.

    :raises OSError: EAGAIN or EACCES when its file is, or may be, in use.
    """
    with found(name, directory=directory) as file:
        # Opening a file that is being exchanged would break the lease on it.
        if not stat.S_ISREG(os.fstat(file).st_mode) or lease.is_leased(file):
            return
        fd = reopen(file)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Where no lease tells who has it open, nothing is exchanged.
        with lease.held(fd) if lease.are_whole(fd) else contextlib.nullcontext():
            unused = not qemu_lock.held(fd) and not was_written_to(name, os.fstat(fd))
            if unused and is_file(fd, name, directory):
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(fd)


def is_file(fd: int, name: str, directory_fd: int) -> bool:
    """Return whether the name in the open directory is that of the open file.

    :raises OSError: as stat(2).
    """
    named = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    return os.path.samestat(os.fstat(fd), named)
