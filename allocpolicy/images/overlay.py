"""An overlay that is found by looking: a file that names a backing file, as qcow2 does.

Nobody said that the file is a qcow2: the guest of a raw disk may have written the
header. What it names is not opened.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import backing_name
from allocpolicy.images import stamp as stamps
from allocpolicy.qcow2.header import read_header
from allocpolicy.record import dataclass
from allocpolicy.storage import directories, qemu_lock, writers
from allocpolicy.storage import found as files
from allocpolicy.storage.credentials import User
from allocpolicy.storage.inode import Inode, inode
from allocpolicy.storage.lease import Leases


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A file and the backing file that it names.

    ``has_policy``: it has a stamp, and was not left short of what that requests, or
    whoever looks knows its policy. ``raw``: its stamp says that it is no overlay.
    ``written``: QEMU has it open for writing.
    """

    path: Path
    inode: Inode
    name: str
    has_policy: bool = False
    raw: bool = False
    written: bool = False
    writers: tuple[User, ...] = ()

    @property
    def backing(self) -> Path | None:
        """Return the path of the backing file, if it is a file that is known."""
        return backing_name.file(self.name, image=self.path)


def find(path: Path, *, leases: Leases) -> Overlay | None:
    """Return a file as an overlay; None if it names no backing file.

    A file under a lease is being rewritten, and is not opened: that would break the
    lease.

    :param path: without symbolic links; none is followed.
    :raises FileNotFoundError: when it is gone.
    :raises OSError: when it can't be read; EWOULDBLOCK for one under a lease.
    """
    with (
        directories.opened_resolved(path.parent) as directory,
        files.found(path.name, directory=directory.fd) as found,
    ):
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        if leases.include(found):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        fd = files.reopen(found)
        try:
            return of(fd, path=path)
        finally:
            os.close(fd)


def of(fd: int, *, path: Path) -> Overlay | None:
    """Return an open file as an overlay; None if it names no backing file.

    A file that QEMU has open as a raw disk is none, whatever its guest wrote.

    :raises OSError: when it can't be read.
    """
    if qemu_lock.held_as_raw(fd):
        return None
    try:
        name = read_header(fd, path=path).backing_file
    except ImageError:  # it is no qcow2
        return None
    if name is None:
        return None
    stamped, format = _stamp(fd, path=path)
    return Overlay(
        path=path,
        inode=inode(os.fstat(fd)),
        name=name,
        has_policy=stamped,
        raw=format is DiskFormat.RAW,
        written=qemu_lock.held_for_writing(fd),
        writers=writers.of(fd),
    )


def _stamp(fd: int, *, path: Path) -> tuple[bool, DiskFormat | None]:
    """Return whether it has a policy, and the format in its stamp if that is valid."""
    try:
        stamp = stamps.read(fd, path=path)
    except ImageError:
        return True, None
    if stamp is None:
        return False, None
    return not stamps.promises_nothing_yet(stamp), stamp.format
