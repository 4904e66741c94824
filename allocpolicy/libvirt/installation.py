"""The hook's file in libvirt's directory: made, replaced and removed, whole each time.

libvirt runs every executable file in the directory, whatever its name: a temporary one
would be a hook. So the file is staged in the directory above, which libvirt searches
for other names.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from allocpolicy.errors import DestinationError
from allocpolicy.libvirt import stub
from allocpolicy.libvirt.stub import Settings
from allocpolicy.record import dataclass
from allocpolicy.storage import (
    directories,
    failure,
    staging,
    temporary,
    trusted_file,
)
from allocpolicy.storage.directories import Directory

DIRECTORY = Path("/etc/libvirt/hooks/qemu.d")  #: where libvirt looks (virhook.c)
NAME = "50-allocpolicy"  #: the hooks run in the order of their names
MODE = 0o755
_DIRECTORY_MODE = 0o755
_ACTION = "install or remove the hook"
_LONGEST = 1 << 20  # bytes of a file that is compared


class Outcome(StrEnum):
    """What became of the hook's file."""

    INSTALLED = "installed"  #: there was none
    REPLACED = "replaced"  #: there was another of ours
    UNCHANGED = "unchanged"  #: it was there already, or there was none to remove
    REMOVED = "removed"  #: it was ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The hook's file as it is."""

    content: bytes  #: all of it
    status: os.stat_result  #: its owner, its mode and its times

    @property
    def settings(self) -> Settings | None:
        """Return what it says of itself."""
        return stub.settings_of(self.content)

    @property
    def executable(self) -> bool:
        """Return whether libvirt runs it."""
        return bool(self.status.st_mode & 0o111)


def install(directory: Path, settings: Settings) -> Outcome:
    """Have the hook in the directory, which is made if the one above it is there.

    :raises DestinationError: when a file of that name is somebody else's, when others
        may change the directory, or it can't be written to.
    :raises NotEnoughSpace: when there is no space for it; what was there stays.
    """
    with _errors_told(directory):
        _make(directory)
        with directories.opened(directory) as opened:
            refuse_distrusted(opened.path)
            found = _read(opened)
            wanted = stub.content(settings)
            if found is not None and _is_whole(found, wanted):
                return Outcome.UNCHANGED
            _write(wanted, into=opened, replace=found is not None)
    return Outcome.REPLACED if found is not None else Outcome.INSTALLED


def uninstall(directory: Path) -> Outcome:
    """Remove the hook from the directory; it may be gone already.

    :raises DestinationError: when a file of that name is somebody else's, or it can't
        be removed.
    """
    with _errors_told(directory):
        try:
            with directories.opened(directory) as opened:
                if _read(opened) is None:
                    return Outcome.UNCHANGED
                os.unlink(NAME, dir_fd=opened.fd)
                directories.sync(opened)
        except FileNotFoundError:
            return Outcome.UNCHANGED
    return Outcome.REMOVED


def read(directory: Path) -> Installed | None:
    """Return the hook's file in the directory, or None if there is none.

    :raises DestinationError: when a file of that name is somebody else's, or it can't
        be read.
    """
    with _errors_told(directory):
        try:
            with directories.opened(directory) as opened:
                return _read(opened)
        except FileNotFoundError:
            return None


def refuse_distrusted(*paths: str | Path) -> None:
    """Refuse paths whose files others may change: libvirt runs them as root.

    :raises DestinationError: for the first of them.
    """
    for path in paths:
        try:
            trusted_file.check(Path(path))
        except trusted_file.Distrusted as error:
            place, problem = error.args
            reason = f"{problem}, and libvirt would run what is there as root"
            raise DestinationError(place, reason) from error
        except OSError as error:
            failure.refuse_failure(error, path=Path(path), action="look at it")
            raise DestinationError(Path(path), str(error.strerror)) from error


def _make(directory: Path) -> None:
    """Make the directory, and the one above it in libvirt's own."""
    missing = (one for one in (directory.parent, directory) if not one.exists())
    for one in missing:
        if one.parent.is_dir():
            one.mkdir()
            one.chmod(_DIRECTORY_MODE)  # whatever the umask


def _read(directory: Directory) -> Installed | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    path = directory.path / NAME
    try:
        fd = os.open(NAME, flags, dir_fd=directory.fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        failure.refuse_failure(error, path=path, action="read it")
        raise DestinationError(path, f"it is none of ours: {error.strerror}") from error
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise DestinationError(path, "it is none of ours: no regular file")
        content = file.read(_LONGEST)
    if not stub.is_ours(content):
        reason = "it is another program's hook; nothing was changed: rename it"
        raise DestinationError(path, reason)
    return Installed(content=content, status=status)


def _is_whole(found: Installed, wanted: bytes) -> bool:
    owned = found.status.st_uid == os.geteuid()
    mode = stat.S_IMODE(found.status.st_mode)
    return found.content == wanted and mode == MODE and owned


def _write(content: bytes, *, into: Directory, replace: bool) -> None:
    with directories.opened(into.path.parent) as above:
        beside = _beside(above, into)
        temporary.sweep(beside)
        with staging.create(beside) as staged:
            with open(staged.fd, "wb", closefd=False) as stream:
                stream.write(content)
            os.fchmod(staged.fd, MODE)  # whatever the umask
            os.fsync(staged.fd)
            if replace:
                staged.replace(NAME, into=into)
            else:
                staged.publish(NAME, into=into)
        directories.sync(into)


def _beside(above: Directory, directory: Directory) -> Directory:
    """Return the directory above, or the other if that is a filesystem of its own."""
    same = os.fstat(above.fd).st_dev == os.fstat(directory.fd).st_dev
    return above if same else directory


@contextlib.contextmanager
def _errors_told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failure.refuse_failure(error, path=directory, action=_ACTION)
        raise DestinationError(directory, str(error.strerror)) from error
