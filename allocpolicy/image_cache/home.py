"""Where an image cache is, opened once; everything in it is reached by descriptor.

A cache may belong to somebody else, as Nova's ``_base`` does when root uses it: its
owner can rename what is in it. There an entry is believed only if it is ours or root's
and says itself of which image it is (`entry`). The records, which are believed by their
names, are in directories that only we and root can change.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import InvalidRequest, StorageFailed
from allocpolicy.image_cache import location
from allocpolicy.record import dataclass
from allocpolicy.storage import directories, trust
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import FAULTS

_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o755  # whatever the umask leaves of it, others may not write
_LINK = "it is a symbolic link, which somebody may have planted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A cache that is, or will be made, under a name in an open directory."""

    above: Directory
    name: str

    @property
    def path(self) -> Path:
        """Return the cache's path, without symbolic links."""
        return self.above.path / self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """An open image cache; ``private``: only we and root can rename what is in it."""

    directory: Directory
    private: bool

    @property
    def path(self) -> Path:
        """Return the cache's path, without symbolic links."""
        return self.directory.path


def refusal(path: Path, problem: str) -> InvalidRequest:
    """Return the error that refuses something in a cache."""
    return InvalidRequest(
        f"image cache {path}: {problem}; remove it, or set image_cache_dir to a"
        " directory that only you can change"
    )


def failure(path: Path, error: OSError) -> InvalidRequest | StorageFailed:
    """Return the error of something in a cache that can't be opened."""
    if error.errno in FAULTS:
        return StorageFailed(path, str(error.strerror))
    return InvalidRequest(f"image cache {path}: {error.strerror}")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the body name the whole path, not what is relative to it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def beside(disks: Directory) -> Iterator[Home]:
    """Find the default cache in the directory of the disks.

    It may be a symbolic link if nobody but us and root can have made that.

    :raises InvalidRequest: when somebody else can.
    """
    home = Home(above=disks, name=location.DEFAULT_NAME)
    if not _is_link(home):
        yield home
        return
    if trust.distrust(os.fstat(disks.fd)):
        raise refusal(home.path, _LINK)
    with named(home.path) as elsewhere:
        yield elsewhere


@contextlib.contextmanager
def named(path: Path) -> Iterator[Home]:
    """Find the cache that the operator names; symbolic links in its path are followed.

    :raises InvalidRequest: when the directory that contains it can't be opened.
    """
    real = Path(os.path.realpath(path))
    with _opened(real.parent, named=path) as above:
        yield Home(above=above, name=real.name or ".")


@contextlib.contextmanager
def at(path: Path) -> Iterator[Home]:
    """Find the cache at a path; one that has the default name is beside its disks.

    :raises InvalidRequest: as `beside` and `named`.
    """
    absolute = Path(os.path.abspath(path))
    with contextlib.ExitStack() as stack:
        if absolute.name != location.DEFAULT_NAME:
            yield stack.enter_context(named(path))
            return
        disks = stack.enter_context(_opened(absolute.parent, named=path))
        yield stack.enter_context(beside(disks))


@contextlib.contextmanager
def opened(home: Home) -> Iterator[Cache | None]:
    """Yield the cache, open; None when it doesn't exist.

    :raises InvalidRequest: when it is no directory, or can't be opened.
    """
    with opened_directory(home.above, home.name) as directory:
        yield None if directory is None else of(directory)


def of(directory: Directory) -> Cache:
    """Return an open directory as an image cache."""
    problem = trust.distrust(os.fstat(directory.fd))
    return Cache(directory=directory, private=problem is None)


def make_directory(above: Directory, name: str) -> None:
    """Make a directory that others may not write to, if it is missing.

    :raises OSError: as mkdir(2).
    """
    with contextlib.suppress(FileExistsError), naming(above.path / name):
        os.mkdir(name, _MODE, dir_fd=above.fd)


@contextlib.contextmanager
def opened_directory(above: Directory, name: str) -> Iterator[Directory | None]:
    """Open a directory in a directory; None when it doesn't exist.

    :raises InvalidRequest: when it is no directory, or can't be opened.
    """
    fd = _open(above, name)
    if fd is None:
        yield None
        return
    try:
        yield Directory(path=above.path / name, fd=fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(path: Path, *, named: Path) -> Iterator[Directory]:
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(directories.opened(path))
        except OSError as error:
            raise failure(named, error) from error
        yield directory


def _is_link(home: Home) -> bool:
    try:
        status = os.lstat(home.name, dir_fd=home.above.fd)
    except OSError:
        return False  # said when it is opened
    return stat.S_ISLNK(status.st_mode)


def _open(above: Directory, name: str) -> int | None:
    try:
        return os.open(name, _FLAGS, dir_fd=above.fd)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:  # also for a link, with O_DIRECTORY
        mode = os.lstat(name, dir_fd=above.fd).st_mode
        problem = _LINK if stat.S_ISLNK(mode) else "it is not a directory"
        raise refusal(above.path / name, problem) from error
    except OSError as error:
        raise failure(above.path / name, error) from error
