"""Named locks between processes, for reservations and for the image cache.

Each is flock(2) on a file that is opened for reading only: a process that may read the
file may hold the lock, and the kernel releases it when the holder dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.storage import digest, trust

PREFIX = "allocpolicy-"
# O_NOFOLLOW: in a directory that others may write to, a name may be a planted link.
# O_NONBLOCK: it may also be a FIFO, on which open(2) would wait; flock(2) still waits.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = _OPEN | os.O_CREAT | os.O_EXCL
_ADVICE = "remove it, or set lock_path to a directory that you trust"
_LOCK_PROBLEMS = {
    errno.ELOOP: "it is a symbolic link, which somebody may have planted; remove it",
    # On NFS flock(2) is an fcntl(2) lock, which needs a file that is open for writing.
    errno.EBADF: "locks do not work on NFS; set lock_path to a local directory",
    errno.ETIMEDOUT: "another process, which lslocks(8) shows, didn't release it in"
    " time; try again",
}
_UNTIL: ContextVar[float | None] = ContextVar("until", default=None)
_PAUSE = 0.01  # seconds between two tries, where waiting has an end


def own_directory() -> Path:
    """Return the default directory of locks, which belongs to the user alone.

    `hold` trusts it only if no other user can have created it or can write to it.
    """
    if os.geteuid() == 0:
        return Path("/run/allocpolicy")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):  # the XDG specification: ignore relative paths
        return Path(runtime) / "allocpolicy"
    import tempfile

    return Path(tempfile.gettempdir()) / f"allocpolicy-{os.geteuid()}"


def key(kind: str, *, of: bytes) -> str:
    """Return the name of the lock of something, whatever that is called."""
    return f"{kind}-{digest.sha256(of)[:32]}"


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Bound what the body waits for locks, all in all; otherwise it waits for ever."""
    token = _UNTIL.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _UNTIL.reset(token)


@contextlib.contextmanager
def hold(name: str, *, lock_path: Path, transient: bool = False) -> Iterator[None]:
    """Hold the lock ``name`` under ``lock_path``; the kernel releases it after a kill.

    The file of a ``transient`` lock is removed at the end; waiting processes create
    another.

    In `own_directory` only the user and root can hold it. In a configured directory
    everyone can, because the users of one filesystem share its lock.

    :raises InvalidRequest: when the directory cannot be trusted, or the lock file
        cannot be created or opened; and at the end of one's `patience`.
    """
    private = lock_path == own_directory()
    directory = _open_directory(lock_path, private=private)
    file = _file(name)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, directory)
        mode = 0o600 if private else 0o644
        fd = _acquire(file, path=lock_path, directory=directory, mode=mode)
        stack.callback(os.close, fd)
        # A child of ours that still has the file open would keep the lock.
        stack.callback(fcntl.flock, fd, fcntl.LOCK_UN)
        if transient:
            stack.callback(_remove, file, directory=directory)
        yield


def take(name: str, *, lock_path: Path) -> int | None:
    """Return a descriptor that holds the lock, taken at once; None if somebody has it.

    The lock is held until all copies of the descriptor are closed, in children, too.

    :raises InvalidRequest: as `hold` does.
    """
    private = lock_path == own_directory()
    directory = _open_directory(lock_path, private=private)
    try:
        with patience(0):
            mode = 0o600 if private else 0o644
            return _acquire(_file(name), path=lock_path, directory=directory, mode=mode)
    except InvalidRequest as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT:
            return None
        raise
    finally:
        os.close(directory)


def forget(name: str, *, lock_path: Path) -> None:
    """Remove the file of a lock that the caller holds, and needs no more.

    :raises InvalidRequest: when the directory cannot be trusted.
    """
    directory = _open_directory(lock_path, private=lock_path == own_directory())
    try:
        _remove(_file(name), directory=directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def hold_all(
    names: Iterable[str], *, lock_path: Path, transient: bool = False
) -> Iterator[None]:
    """Hold several locks, each once, taken in the order that everybody keeps to.

    :raises InvalidRequest: as `hold` does.
    """
    with contextlib.ExitStack() as stack:
        for name in in_order(names):
            one = hold(name, lock_path=lock_path, transient=transient)
            stack.enter_context(one)
        yield


def in_order(names: Iterable[str]) -> list[str]:
    """Return the names, each lock's once, in the order that everybody keeps to."""
    return [name for _, name in sorted({_file(one): one for one in names}.items())]


def _file(name: str) -> str:
    """Return the name of a lock's file."""
    return f"{PREFIX}{name.strip('/').replace('/', '-')}"


def _remove(file: str, *, directory: int) -> None:
    with contextlib.suppress(OSError):  # in a shared directory it may be another user's
        os.unlink(file, dir_fd=directory)


def _open_directory(path: Path, *, private: bool) -> int:
    # O_PATH: the directory needs search permission only, not read permission.
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    if private:
        flags |= os.O_NOFOLLOW
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
        fd = os.open(path, flags)
    except OSError as error:
        reason = f"{error.strerror}; set lock_path to a directory that you may use"
        if private and path.is_symlink():
            reason = f"it is a symbolic link; {_ADVICE}"
        raise InvalidRequest(f"lock directory {path}: {reason}") from error
    problem = trust.distrust(os.fstat(fd)) if private else None
    if problem is not None:
        os.close(fd)
        raise InvalidRequest(f"lock directory {path}: {problem}; {_ADVICE}")
    return fd


def _acquire(name: str, *, path: Path, directory: int, mode: int) -> int:
    """Return the lock file, open and locked; wait while another process holds it."""
    try:
        while True:
            fd = _open(name, directory=directory, mode=mode)
            try:
                _wait(fd)
                if os.fstat(fd).st_nlink:  # otherwise it was removed before the lock
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    except OSError as error:
        reason = _LOCK_PROBLEMS.get(
            error.errno or 0, f"{error.strerror}; set lock_path to another directory"
        )
        raise InvalidRequest(f"lock {path / name}: {reason}") from error


def _wait(fd: int) -> None:
    until = _UNTIL.get()
    if until is None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from error
            time.sleep(_PAUSE)
        else:
            return


def _open(name: str, *, directory: int, mode: int) -> int:
    """Open the lock file, and create it if it is missing.

    Never O_CREAT without O_EXCL: with fs.protected_regular (Linux 4.19) that fails with
    EACCES for other users' files in sticky directories.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, _OPEN, dir_fd=directory)
        with contextlib.suppress(FileExistsError):
            fd = os.open(name, _CREATE, mode, dir_fd=directory)
            os.fchmod(fd, mode)  # whatever the umask
            return fd
