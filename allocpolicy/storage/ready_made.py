"""A file that was made beforehand, and becomes a disk: under its name until then.

It is locked by flock(2) against other takers, and must be nobody else's: a process that
has it open, or another name, would go on changing what is a disk. Whatever ends the
work before the file gets its new name, a kill included, it is where it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import Error, Replan, Unsupported
from allocpolicy.storage import attributes, directories, lease, mount, rename, temporary
from allocpolicy.storage.failure import refuse_failure
from allocpolicy.storage.found import found, reopen
from allocpolicy.storage.temporary import is_file

_PATIENCE = 0.5  # seconds; who only looks at it closes it within less
_ELSEWHERE = "it is not on the disk's filesystem"
_ACTION = "take it as the disk"


class ReadyMade:
    """An open ready-made file; `close` puts it back unless `move` gave it a new name.

    ``fd`` is open for reading and writing.
    """

    def __init__(self, path: Path, *, into: int) -> None:
        """Open and lock it.

        :param into: the open directory of the disk.
        :raises Replan: when it is gone, or another process has it open.
        :raises Unsupported: when it is no file of ours alone that can be moved.
        """
        self.path = path
        with contextlib.ExitStack() as stack, _told(path):
            place = stack.enter_context(directories.opened(path.parent))
            self._directory = stack.enter_context(directories.readable(place))
            self.fd = stack.enter_context(_locked(path, self._directory, into=into))
            self._before: attributes.Seen | None = attributes.look(self.fd)
            self._opened = stack.pop_all()

    def move(self, name: str, *, into: int) -> None:
        """Give the file its new name, and no longer its own, unless that is taken.

        :raises Replan: when another file has its name by now, which stays, or it is
            open elsewhere.
        :raises Unsupported: when it can't be moved.
        :raises OSError: EEXIST when the new name is taken.
        """
        with _told(self.path), _alone(self.fd, self.path):
            self._refuse_if_replaced()
            self._rename(name, into=into)
            if not is_file(self.fd, name, into):
                self._give_back_other(name, into=into)
                raise Replan(f"{self.path} was replaced meanwhile", self.path)
            self._before = None

    def sync(self) -> None:
        """Sync the directory that had its name.

        :raises OSError: as fsync(2).
        """
        os.fsync(self._directory)

    def close(self) -> None:
        """Close it; unless it was moved, with the attributes that it had."""
        if self._before is not None:
            attributes.put_back(self.fd, self._before)
        self._opened.close()

    def _rename(self, name: str, *, into: int) -> None:
        try:
            rename.without_replacing(
                self.path.name, name, source=self._directory, target=into
            )
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno == errno.EXDEV:  # also of another project, for its quota
                raise Unsupported(self.path, _ELSEWHERE) from error
            raise

    def _refuse_if_replaced(self) -> None:
        if not is_file(self.fd, self.path.name, self._directory):
            raise Replan(f"{self.path} was replaced meanwhile", self.path)
        _refuse_other_names(self.fd, self.path)

    def _give_back_other(self, name: str, *, into: int) -> None:
        """Let a file that took our file's name in the last moment have it again."""
        try:
            rename.without_replacing(
                name, self.path.name, source=into, target=self._directory
            )
        except OSError as error:
            raise Error(
                f"{self.path}: it was replaced while it was taken, and what replaced it"
                f" is now named {name} in the disk's directory: {error.strerror}; move"
                " it back"
            ) from error


def look(path: Path, *, into: int) -> None:
    """Check what can be known of a ready-made file without opening it.

    :raises Replan: when it is gone.
    :raises Unsupported: when it is no file that can be moved.
    """
    with (
        _told(path),
        directories.opened(path.parent) as place,
        found(path.name, directory=place.fd) as file,
    ):
        _refuse_unfit(file, path, directory=place.fd, into=into)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a ready-made file for a moment, for reading.

    :raises Replan: when it is gone, or another process is taking it.
    :raises Unsupported: when it is no regular file, or can't be read.
    """
    with (
        _told(path),
        directories.opened(path.parent) as place,
        found(path.name, directory=place.fd) as file,
    ):
        _refuse_irregular(file, path)
        fd = reopen(file)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what the kernel says about a ready-made file as what it means."""
    try:
        yield
    except FileExistsError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Replan(f"{path} is gone", path) from error
    except BlockingIOError as error:  # its lock, or its lease
        raise Replan(f"{path} is being taken by another process", path) from error
    except OSError as error:
        refuse_failure(error, path=path, action=_ACTION)
        reason = f"{_ACTION}: {os.strerror(error.errno or 0)}"
        raise Unsupported(path, reason) from error


@contextlib.contextmanager
def _locked(path: Path, directory: int, *, into: int) -> Iterator[int]:
    """Yield the file, open, locked, and nobody else's for the moment."""
    with found(path.name, directory=directory) as file:
        _refuse_unfit(file, path, directory=directory, into=into)
        fd = reopen(file, flags=os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_file(fd, path.name, directory):
            raise Replan(f"{path} was taken by another process", path)
        with _alone(fd, path):
            _refuse_other_names(fd, path)
        yield fd
    finally:
        os.close(fd)


def _refuse_unfit(file: int, path: Path, *, directory: int, into: int) -> None:
    _refuse_irregular(file, path)
    _refuse_other_names(file, path)
    same = os.fstat(file).st_dev == os.fstat(into).st_dev
    if not same or _is_apart(directory, into):
        raise Unsupported(path, _ELSEWHERE)


def _refuse_irregular(file: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise Unsupported(path, "it is not a regular file, and can't become a disk")


def _is_apart(directory: int, other: int) -> bool:
    """Return whether no name can be moved between two directories.

    Where they are of different mounts, that is told before a name is looked for.
    """
    try:
        nowhere = temporary.new_name()
        os.rename(nowhere, nowhere, src_dir_fd=directory, dst_dir_fd=other)
    except OSError as error:
        return error.errno == errno.EXDEV
    return False


def _refuse_other_names(file: int, path: Path) -> None:
    names = os.fstat(file).st_nlink
    if names > 1:
        reason = f"it has {names} hard links, and who has another would have the disk"
        raise Unsupported(path, reason)


@contextlib.contextmanager
def _alone(fd: int, path: Path) -> Iterator[None]:
    """Let others who open the file wait.

    :raises Replan: when somebody has it open; another ready-made file may do.
    :raises Unsupported: where that can't be known.
    """
    if not lease.are_whole(fd):
        kind = mount.of(fd).type
        reason = f"a lease on {kind} doesn't show whether another process has it open"
        raise Unsupported(path, reason)
    with contextlib.ExitStack() as stack:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                stack.enter_context(lease.held(fd))
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    reason = f"{path}: another process has it open"
                    raise Replan(reason, path) from error
            except OSError as error:
                if error.errno not in lease.NO_LEASES:
                    raise
                reason = "can't determine whether it is open elsewhere"
                raise Unsupported(
                    path, f"{reason}: {lease.refusal(fd, error)}"
                ) from error
            time.sleep(0.002)
        yield
