"""The hook's file in libvirt's directory: made, replaced and removed, whole each time.

libvirt runs every executable file in the directory, whatever its name: a temporary one
would be a hook. So the file is staged in the directory above, which libvirt searches
for other names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.libvirt import stub
from allocpolicy.libvirt.stub import Settings
from allocpolicy.log import telling
from allocpolicy.log.entry import State
from allocpolicy.record import dataclass
from allocpolicy.report import whole_file
from allocpolicy.storage import (
    directories,
    failure,
    found,
    trusted_file,
)
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.way import Distrusted

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

    :raises InvalidRequest: when a file of that name is somebody else's, when others
        may change the directory, or it can't be written to.
    :raises NotEnoughSpace: when there is no space for it; what was there stays.
    """
    with _errors_told(directory):
        _make(directory)
        with directories.opened(directory) as opened:
            refuse_distrusted(opened.path)
            there = _read(opened)
            wanted = stub.content(settings)
            if there is not None and _is_whole(there, wanted):
                return Outcome.UNCHANGED
            with telling.changing(
                "libvirt install-hook",
                file=directory / NAME,
                before=_told(there),
            ) as done:
                _write(wanted, into=opened, is_new=there is None)
                done(_told_settings(settings))
    return Outcome.REPLACED if there is not None else Outcome.INSTALLED


def uninstall(directory: Path) -> Outcome:
    """Remove the hook from the directory; it may be gone already.

    :raises InvalidRequest: when a file of that name is somebody else's, or it can't
        be removed.
    """
    with _errors_told(directory):
        try:
            with directories.opened(directory) as opened:
                there = _read(opened)
                if there is None:
                    return Outcome.UNCHANGED
                with telling.changing(
                    "libvirt uninstall-hook",
                    file=directory / NAME,
                    before=_told(there),
                ) as done:
                    os.unlink(NAME, dir_fd=opened.fd)
                    directories.sync(opened)
                    done(None)
        except FileNotFoundError:
            return Outcome.UNCHANGED
    return Outcome.REMOVED


def _told(there: Installed | None) -> State | None:
    """Return what is told of the file that is there; one of ours may be damaged."""
    if there is None:
        return None
    settings = there.settings
    return _told_settings(settings) if settings else {"version": None}


def _told_settings(settings: Settings) -> State:
    return {
        "version": settings.version,
        "interpreter": settings.interpreter,
        "on_missing": str(settings.on_missing),
    }


def read(directory: Path) -> Installed | None:
    """Return the hook's file in the directory, or None if there is none.

    :raises InvalidRequest: when a file of that name is somebody else's, or it can't
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

    :raises InvalidRequest: for the first of them.
    """
    for path in paths:
        try:
            trusted_file.check(Path(path))
        except Distrusted as error:
            place, problem = error.args
            reason = f"{problem}, and libvirt would run what is there as root"
            raise _refusal(place, reason) from error
        except OSError as error:
            failure.refuse_failure(error, path=Path(path), action="look at it")
            raise _refusal(Path(path), str(error.strerror)) from error


def _refusal(path: Path, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {reason}")


def _make(directory: Path) -> None:
    """Make the directory, and the one above it in libvirt's own.

    :raises InvalidRequest: when libvirt has none.
    """
    missing = (one for one in (directory.parent, directory) if not one.exists())
    for one in missing:
        if one.parent.is_dir():
            one.mkdir()
            one.chmod(_DIRECTORY_MODE)  # whatever the umask
    if not directory.exists():
        raise _refusal(
            directory,
            "it can't be made, as the directories above it are missing: install libvirt"
            " first, or say with --hooks-directory where it looks for hooks",
        )


def _read(directory: Directory) -> Installed | None:
    """Return the file of our name; a link is not followed, nor a FIFO waited for."""
    try:
        with found.found(NAME, directory=directory.fd) as fd:
            status = os.fstat(fd)
            regular = stat.S_ISREG(status.st_mode)
            content = _content(fd) if regular else b""
    except FileNotFoundError:
        return None
    if not stub.is_ours(content):
        reason = "it is another program's; nothing was changed: give it another name"
        raise _refusal(directory.path / NAME, reason)
    return Installed(content=content, status=status)


def _content(fd: int) -> bytes:
    with open(found.reopen(fd), "rb") as file:
        return file.read(_LONGEST)


def _is_whole(there: Installed, wanted: bytes) -> bool:
    owned = there.status.st_uid == os.geteuid()
    mode = stat.S_IMODE(there.status.st_mode)
    return there.content == wanted and mode == MODE and owned


def _write(content: bytes, *, into: Directory, is_new: bool) -> None:
    with directories.opened(into.path.parent) as above:
        whole_file.put(
            content,
            name=NAME,
            into=into,
            mode=MODE,
            beside=_beside(above, into),
            is_new=is_new,
        )


def _beside(above: Directory, directory: Directory) -> Directory:
    """Return the directory above, or the other if that is a filesystem of its own."""
    same = os.fstat(above.fd).st_dev == os.fstat(directory.fd).st_dev
    return above if same else directory


@contextlib.contextmanager
def _errors_told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EROFS:  # where it is no disk's, that is no fault
            failure.refuse_failure(error, path=directory, action=_ACTION)
        raise _refusal(directory, str(error.strerror)) from error
