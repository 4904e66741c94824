"""A file that has no name until it is complete: open(2) O_TMPFILE and linkat(2).

A kill at any moment leaves nothing at all. Where O_TMPFILE is missing (NFS, FUSE), the
file has a `temporary` name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from allocpolicy.errors import (
    ContractBroken,
    DestinationError,
    DestinationExists,
    Error,
    FailedAfterwards,
    ImageError,
    StorageFailed,
    Unsupported,
)
from allocpolicy.storage import (
    directories,
    lease,
    patience,
    rename,
    signals,
    temporary,
)
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import explained
from allocpolicy.storage.patience import Answer
from allocpolicy.storage.ready_made import ReadyMade
from allocpolicy.storage.temporary import PRIVATE, is_file

# No O_TMPFILE: EOPNOTSUPP from the filesystem, EISDIR from kernels before 3.11.
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR})
_DIRECTORY_PROBLEMS = {
    # It was there when it was opened: so it is in procfs, too.
    errno.ENOENT: "the directory is gone, or nobody can make files in it",
    errno.ENOTDIR: "its parent is not a directory",
    errno.EACCES: "no permission to write in the directory",
    errno.EPERM: "no permission to write in the directory",
    errno.EROFS: "the filesystem is mounted read-only",
}


class Staged:
    """An open file without a name of its own.

    `publish`, `replace` or `exchange` give it one; otherwise it is dropped.
    """

    def __init__(self, *, directory: Path, directory_fd: int) -> None:
        self.directory = directory
        self.directory_fd = directory_fd
        self._ready_made: ReadyMade | None = None
        self._temporary: str | None = None
        self.fd = self._open()

    def _open(self) -> int:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        try:
            return self._asked(
                lambda: os.open(".", flags, PRIVATE, dir_fd=self.directory_fd)
            )
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        self._temporary, fd = self._asked(lambda: temporary.create(self.directory_fd))
        return fd

    def _asked(self, call: Callable[[], Answer]) -> Answer:
        """Return what the call returns, which makes a file or a name."""
        return patience.asked(call, fd=self.directory_fd)

    @property
    def adopted(self) -> Path | None:
        """Return the path of the ready-made file that it is, with its attributes."""
        return self._ready_made.path if self._ready_made is not None else None

    def adopt(self, path: Path) -> None:
        """Make the ready-made file at ``path`` the staged one.

        It keeps its name until `publish`; what is changed of its owner, mode and xattrs
        is undone if it isn't published.

        :raises Replan: when it is gone, or another process has it open.
        :raises Unsupported: when it is on another filesystem, or has other names.
        :raises ContractBroken: when another was adopted before.
        """
        if self._ready_made is not None:
            raise ContractBroken("it adopts a second ready-made file")
        ready_made = ReadyMade(path, into=self.directory_fd)
        self.discard()
        self.fd, self._ready_made = ready_made.fd, ready_made

    def publish(self, name: str, *, into: Directory | None = None) -> None:
        """Give the complete file its name; never overwrite another file.

        :param into: the open directory of the name, if it isn't the file's own.
        :raises DestinationExists: when the name is taken.
        :raises FailedAfterwards: when it has the name, perhaps not for good.
        :raises Replan: when a ready-made file is another's by now.
        """
        if self._ready_made is not None:
            self._publish_ready_made(name, self._ready_made)
            return
        directory = into.path if into else self.directory
        directory_fd = into.fd if into else self.directory_fd
        try:
            self._link(
                self._temporary or f"/proc/self/fd/{self.fd}", name, directory_fd
            )
        except FileExistsError as error:
            raise DestinationExists(directory / name) from error
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            reason = "it has no hard links, so a disk can't be published atomically"
            raise Unsupported(self.directory, reason) from error
        with self._published(directory / name):
            os.fsync(self.directory_fd)
            self._forget_name()

    def _publish_ready_made(self, name: str, ready_made: ReadyMade) -> None:
        with signals.interrupts_postponed():
            try:
                ready_made.move(name, into=self.directory_fd)
            except FileExistsError as error:
                raise DestinationExists(self.directory / name) from error
            with self._published(self.directory / name):
                os.fsync(self.directory_fd)
                ready_made.sync()

    @contextlib.contextmanager
    def _published(self, path: Path) -> Iterator[None]:
        """Tell what fails once the file has its name as what it is.

        :raises FailedAfterwards: instead of OSError.
        """
        try:
            yield
        except OSError as error:
            reason = (
                f"its directory could not be synced or cleaned up ({error.strerror}):"
                " the name may not outlast a power cut; run sync, and see the kernel's"
                " log"
            )
            raise FailedAfterwards(path, reason) from error

    def replace(self, name: str, *, into: Directory | None = None) -> None:
        """Give the complete file its name, replacing any file that has it.

        :param into: the open directory of the name, if it isn't the file's own; it is
            the caller's to sync.
        :raises OSError: as rename(2), EISDIR for a directory.
        """
        temporary, directory = self._named(), self.directory_fd
        target = into.fd if into else directory
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=target)
        self._temporary = None
        os.fsync(directory)

    def exchange(self, name: str, *, old: int) -> None:
        """Exchange the complete file with the one of that name, and drop the old one.

        The old file's lease is asked before and after; if it broke, the names are
        exchanged back. Meanwhile the new file is leased, too, so that nobody uses a
        name that it may lose. A Ctrl-C waits. A kill may leave a second name, for
        whichever file is not the disk at that moment; no sweep removes an old file
        that somebody opened and wrote to.

        :param old: the descriptor, under a lease, of the file that has the name.
        :raises ImageError: when somebody has opened it, or the name is another file's
            by now; nothing was changed.
        :raises Unsupported: when the filesystem cannot exchange names.
        :raises Error: when the names could not be exchanged back.
        :raises FailedAfterwards: when the new file is the disk, perhaps not for good.
        """
        fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary = self._named(replacing=old)
        with (
            signals.interrupts_postponed(),
            contextlib.ExitStack() as at_the_end,
            self._leased(),
        ):
            self._refuse_if_lost(name, disk=name, old=old)
            self._exchange(temporary, name)
            self._temporary = None  # it names the old file, which may be needed
            # It may take long; afterwards is the last look before the old name goes.
            with self._published_later(name, at_the_end):
                os.fsync(self.directory_fd)
            self._settle(name, temporary, old=old)
            at_the_end.callback(self._drop_old, temporary, disk=name)

    @contextlib.contextmanager
    def _published_later(
        self, name: str, at_the_end: contextlib.ExitStack
    ) -> Iterator[None]:
        """Tell of a failure as `_published` does, but at the end."""
        try:
            with self._published(self.directory / name):
                yield
        except FailedAfterwards as error:
            at_the_end.callback(_throw, error)

    def _drop_old(self, name: str, *, disk: str) -> None:
        with self._published(self.directory / disk):
            os.unlink(name, dir_fd=self.directory_fd)

    def _settle(self, name: str, temporary: str, *, old: int) -> None:
        """Check that nobody opened the old file meanwhile, or exchange back."""
        try:
            self._refuse_if_lost(temporary, disk=name, old=old)
        except (ImageError, OSError) as error:
            reason = getattr(error, "reason", "") or f"it can't be looked at: {error}"
            self._exchange_back(temporary, name, reason=reason)
            raise

    def _exchange_back(self, temporary: str, name: str, *, reason: str) -> None:
        both = (
            f"{self.directory / name}: {reason}; what was the disk is now"
            f" {self.directory / temporary}, and both are whole: keep the right one"
        )
        if not lease.is_whole(self.fd):
            raise Error(f"{both}, as another process opened the new one, too")
        try:
            self._exchange(temporary, name)
        except (OSError, Unsupported) as error:
            raise Error(
                f"{both}: the names can't be exchanged back: {error}"
            ) from error
        self._temporary = temporary

    def _refuse_if_lost(self, name: str, *, disk: str, old: int) -> None:
        """Check that the old file has the name, and that nobody has opened it.

        :raises ImageError: when that is not so.
        """
        if not self._has(name, old):
            reason = "it was replaced meanwhile; nothing was changed"
            raise ImageError(self.directory / disk, reason)
        if not lease.is_whole(old):
            raise ImageError(self.directory / disk, lease.OPENED_MEANWHILE)

    def _has(self, name: str, fd: int) -> bool:
        try:
            return is_file(fd, name, self.directory_fd)
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _leased(self) -> Iterator[None]:
        """Let those who open the new file wait.

        :raises Error: when somebody has it open already.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lease.held(self.fd))
            except BlockingIOError as error:
                raise Error(
                    f"{self.directory}: another process has the new file open that was"
                    " to replace the disk; nothing was changed: stop it, and try again"
                ) from error
            yield

    def _named(self, *, replacing: int | None = None) -> str:
        """Return the file's temporary name; give it one, locked, if it has none.

        :param replacing: the file that gets the name by an exchange.
        """
        before = self._temporary
        if before is None:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
        if before is None or replacing is not None:
            # Recorded before it exists: Ctrl-C may come in between.
            self._temporary = temporary.new_name(replacing=replacing)
            self._link(before or f"/proc/self/fd/{self.fd}", self._temporary)
        if before is not None and before != self._temporary:
            os.unlink(before, dir_fd=self.directory_fd)
        assert self._temporary is not None
        return self._temporary

    def _link(self, source: str, name: str, directory_fd: int | None = None) -> None:
        # With src_dir_fd Python calls linkat(2) with AT_SYMLINK_FOLLOW; link(2) fails
        # with EXDEV on the magic link.
        self._asked(
            lambda: os.link(
                source,
                name,
                src_dir_fd=self.directory_fd,
                dst_dir_fd=self.directory_fd if directory_fd is None else directory_fd,
                follow_symlinks=True,
            )
        )

    def _exchange(self, temporary: str, name: str) -> None:
        try:
            rename.exchange(temporary, name, directory=self.directory_fd)
        except OSError as error:
            if error.errno not in rename.NO_EXCHANGE:
                raise
            reason = "it cannot exchange names, so a disk can't be replaced atomically"
            raise Unsupported(self.directory / name, reason) from error

    def discard(self) -> None:
        """Drop the file unless it was published; a ready-made one is put back."""
        if self._ready_made is not None:
            self._ready_made.close()
            return
        self._forget_name()
        os.close(self.fd)

    def _forget_name(self) -> None:
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self.directory_fd)


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
        except (OSError, StorageFailed) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            number = cause.errno if isinstance(cause, OSError) else None
            if number not in _DIRECTORY_PROBLEMS:
                raise
            refused = DestinationError(path, _DIRECTORY_PROBLEMS[number])
            refused.what = "a file in "
            raise refused from error
        stack.callback(staged.discard)
        yield staged


def _throw(error: FailedAfterwards) -> NoReturn:
    raise error
