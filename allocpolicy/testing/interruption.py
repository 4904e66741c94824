"""Ending work before any of its steps: by an error, without space, or by SIGKILL."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

from allocpolicy import Error
from allocpolicy.testing import between
from allocpolicy.testing.law import Broken, require
from allocpolicy.testing.subject import Place

Act = Callable[[], None]

_PIECE = 1 << 20  # bytes in which a filesystem is filled


def failed(
    place: Place,
    work: Callable[[], None],
    act: Act,
    *,
    at: int,
    expected: type[Error],
) -> None:
    """Do the work, which is to fail before a step; that is told as what it is."""
    try:
        with between.one_step(place.subject.strategy, act, at=at):
            work()
    except expected as error:
        require(len(str(error).splitlines()) == 1, f"it says: {error}")
    except Error as error:
        raise Broken(f"{act.__name__} {when(at)} is told as {error}") from error
    else:
        raise Broken(f"what fails {when(at)} is not noticed")


def killed(place: Place, work: Callable[[], None], *, at: int) -> None:
    """Do the work in a process that is killed before a step, with its children."""
    alive, ends = os.pipe()
    child = os.fork()
    if not child:
        program = os.getpid()

        def kill() -> None:
            os.kill(program, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)  # a worker, if it is one

        try:
            with between.one_step(place.subject.strategy, kill, at=at):
                work()
        finally:
            os._exit(1)
    os.close(ends)
    os.read(alive, 1)  # until both have ended
    os.close(alive)
    _, status = os.waitpid(child, 0)
    told = f"it plans otherwise than before, and was not killed {when(at)}"
    require(os.WIFSIGNALED(status), told)


def fail() -> None:
    """End the work as a mistake in a step does."""
    raise RuntimeError("the suite interrupts it")


def lack_space() -> None:
    """End the work as a filesystem without room does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Full:
    """What fills a filesystem, until it is closed."""

    def __init__(self, directory: Path) -> None:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        self._fd = os.open(directory, flags, 0o600)
        self._filled = 0

    def fill(self) -> None:
        """Take all that is free, in ever smaller pieces."""
        piece = _PIECE
        while piece >= 512:
            try:
                os.posix_fallocate(self._fd, self._filled, piece)
                self._filled += piece
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)


def when(at: int) -> str:
    """Return before which step that is, in words."""
    return f"before step {at + 1}, or after the last"


def require_same(
    place: Place, before: dict[str, str], what: str, *, but: str = ""
) -> None:
    """Check that a directory is what it was, but for the content of one file."""
    after = tree(place.directory)
    gone = [f"{name} is gone" for name in before if name not in after]
    new = [f"{name} is new" for name in after if name not in before]
    changed = [
        f"{name} is changed"
        for name in before
        if name != but and name in after and after[name] != before[name]
    ]
    told = ", ".join((*gone, *new, *changed))
    require(not told, f"after {what}: {told}")


def tree(directory: Path) -> dict[str, str]:
    """Return the files below a directory, with what is in each."""
    return {
        str(path.relative_to(directory)): _content(path)
        for path in sorted(directory.rglob("*"))
    }


def _content(path: Path) -> str:
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode):
        return oct(state.st_mode)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
