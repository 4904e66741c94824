"""A file that has no name until it is complete: open(2) O_TMPFILE and linkat(2).

A kill at any moment leaves nothing at all. Where O_TMPFILE is missing (NFS, FUSE), the
file has a temporary name and its creator holds flock(2) on it; `sweep` removes the
names whose creators are gone. All temporary names come from this module.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from allocpolicy.errors import (
    DestinationError,
    DestinationExists,
    ImageError,
    Replan,
    Unsupported,
)
from allocpolicy.storage import directories, lease, rename
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import explained

_PREFIX, _SUFFIX = ".allocpolicy-", ".tmp"
# No O_TMPFILE: EOPNOTSUPP from the filesystem, EISDIR from kernels before 3.11.
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR})
# O_NONBLOCK: the name may be that of a FIFO.
_SWEPT = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
PRIVATE = 0o600
OPENED_MEANWHILE = (
    "another process opened it meanwhile; it is unchanged: stop that process, and"
    " try again"
)
_DIRECTORY_PROBLEMS = {
    errno.ENOENT: "the directory does not exist; create it first",
    errno.ENOTDIR: "its parent is not a directory",
    errno.EACCES: "no permission to write in the directory",
    errno.EPERM: "no permission to write in the directory",
    errno.EROFS: "the filesystem is mounted read-only",
}


def temporary_name() -> str:
    """Return a name that `sweep` removes once no process holds a lock on its file."""
    return f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Return whether the name is a temporary one."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def open_named(directory: int) -> tuple[str, int]:
    """Create a file in the open directory, mode 0600; return its temporary name and it.

    It is locked, and `sweep` leaves it alone until it is closed.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    while True:
        name = temporary_name()
        fd = os.open(name, flags, PRIVATE, dir_fd=directory)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:  # otherwise a sweep came between open and lock
            return name, fd
        os.close(fd)


class Staged:
    """An open file without a name of its own.

    `publish`, `replace` or `exchange` give it one; otherwise it is dropped.
    """

    def __init__(self, *, directory: Path, directory_fd: int) -> None:
        self.directory = directory
        self.directory_fd = directory_fd
        self.adopted = False  # from a ready-made file, with its owner and attributes
        self._temporary: str | None = None
        self.fd = self._open()

    def _open(self) -> int:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(".", flags, PRIVATE, dir_fd=self.directory_fd)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        self._temporary, fd = open_named(self.directory_fd)
        return fd

    def adopt(self, path: Path) -> None:
        """Make the ready-made file at ``path`` the staged one; all or nothing.

        :raises Replan: when another process took it first.
        :raises Unsupported: when it is on another filesystem.
        """
        fd = _lock_ready_made(path)
        name = temporary_name()
        try:
            os.rename(path, name, dst_dir_fd=self.directory_fd)
            if not _same_file(fd, name, self.directory_fd):
                os.rename(name, path, src_dir_fd=self.directory_fd)
                raise Replan(f"{path} was replaced while it was taken")
        except FileNotFoundError as error:
            os.close(fd)
            raise Replan(f"{path} was taken by another process") from error
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EXDEV:
                raise
            raise Unsupported(path, "it is not on the disk's filesystem") from error
        except Replan:
            os.close(fd)
            raise
        self.discard()
        self.fd, self._temporary, self.adopted = fd, name, True

    def publish(self, name: str) -> None:
        """Give the complete file its name; never overwrite another file.

        :raises DestinationExists: when the name is taken.
        """
        try:
            self._link(self._temporary or f"/proc/self/fd/{self.fd}", name)
        except FileExistsError as error:
            raise DestinationExists(self.directory / name) from error
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            reason = "it has no hard links, so a disk can't be published atomically"
            raise Unsupported(self.directory, reason) from error
        self._forget_name()
        os.fsync(self.directory_fd)

    def replace(self, name: str) -> None:
        """Give the complete file its name, replacing any file that has it.

        :raises OSError: as rename(2), EISDIR for a directory.
        """
        temporary, directory = self._named(), self.directory_fd
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        self._temporary = None
        os.fsync(directory)

    def exchange(self, name: str, *, old: int, still_alone: Callable[[], bool]) -> None:
        """Exchange the complete file with the one of that name, and drop the old one.

        A kill may leave a second name, for whichever file is not the disk at that
        moment. Both files are locked, and `sweep` leaves them alone while this process
        lives.

        :param old: the descriptor, under a lease, of the file that has the name.
        :param still_alone: tells whether nobody has opened that file; called before and
            after the exchange, which is undone if it returns False.
        :raises ImageError: when somebody has, or the name is another file's by now.
        :raises Unsupported: when the filesystem cannot exchange names.
        """
        disk = self.directory / name
        fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary = self._named()
        self._exchange(temporary, name, disk=disk)
        if not _same_file(old, temporary, self.directory_fd):
            self._exchange(temporary, name, disk=disk)
            raise ImageError(disk, "it was replaced meanwhile; nothing was changed")
        if not still_alone():
            self._exchange(temporary, name, disk=disk)
            raise ImageError(disk, OPENED_MEANWHILE)
        os.fsync(self.directory_fd)
        self._forget_name()

    def _named(self) -> str:
        """Return the file's temporary name; give it one, locked, if it has none."""
        if self._temporary is None:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            # Recorded before it exists: Ctrl-C may come in between.
            self._temporary = temporary_name()
            self._link(f"/proc/self/fd/{self.fd}", self._temporary)
        return self._temporary

    def _link(self, source: str, name: str) -> None:
        # With src_dir_fd Python calls linkat(2) with AT_SYMLINK_FOLLOW; link(2) fails
        # with EXDEV on the magic link.
        os.link(
            source,
            name,
            src_dir_fd=self.directory_fd,
            dst_dir_fd=self.directory_fd,
            follow_symlinks=True,
        )

    def _exchange(self, first: str, second: str, *, disk: Path) -> None:
        try:
            rename.exchange(first, second, directory=self.directory_fd)
        except OSError as error:
            if error.errno not in rename.NO_EXCHANGE:
                raise
            reason = "it cannot exchange names, so a disk can't be replaced atomically"
            raise Unsupported(disk, reason) from error

    def discard(self) -> None:
        """Drop the file unless it was published."""
        self._forget_name()
        os.close(self.fd)

    def _forget_name(self) -> None:
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self.directory_fd)
            self._temporary = None


@contextlib.contextmanager
def create(directory: Directory) -> Iterator[Staged]:
    """Open a staged file, mode 0600, in the directory; drop it if not published.

    :raises DestinationError: when the directory is gone or not writable.
    :raises NotEnoughSpace: when not even an empty file can be made.
    """
    path = directory.path
    with contextlib.ExitStack() as stack:
        try:
            fd = stack.enter_context(directories.readable(directory))
            # ENOSPC here is a lack of inodes.
            with explained(fd=fd, path=path, needed=0, action="make a file"):
                staged = Staged(directory=path, directory_fd=fd)
        except OSError as error:
            if error.errno not in _DIRECTORY_PROBLEMS:
                raise
            reason = _DIRECTORY_PROBLEMS[error.errno]
            raise DestinationError(path, reason) from error
        stack.callback(staged.discard)
        yield staged


def sweep(directory: Directory) -> None:
    """Remove the directory's temporary names whose creators are gone.

    :raises PermissionError: when the directory can't be listed.
    """
    with directories.readable(directory) as fd, os.scandir(fd) as entries:
        found = [entry for entry in entries if is_temporary(entry.name)]
    leased = lease.leased_inodes() if found else frozenset()
    for entry in found:
        # A disk that is being exchanged: opening it would break the creator's lease.
        if entry.inode() not in leased:
            with contextlib.suppress(OSError):
                _remove_if_unlocked(entry.name, directory=directory.fd)


def _remove_if_unlocked(name: str, *, directory: int) -> None:
    fd = os.open(name, _SWEPT, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)
    finally:
        os.close(fd)


def _lock_ready_made(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Replan(f"{path} is gone") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unsupported(path, "it is not a regular file")
    except BlockingIOError as error:
        os.close(fd)
        raise Replan(f"{path} is being taken by another process") from error
    except Unsupported:
        os.close(fd)
        raise
    return fd


def _same_file(fd: int, name: str, directory_fd: int) -> bool:
    named = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    return os.path.samestat(os.fstat(fd), named)
