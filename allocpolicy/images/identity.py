"""Whether an open image is unchanged since it was opened, and nobody writes to it.

A read lease shows it for certain, while the image is open. Where there is none (another
user's file, NFS, FUSE, overlay mounts), the file's ctime does, which no owner can put
back, and QEMU's lock bytes. That leaves a gap, because the kernel sets ctime when a
write begins: a shared mapping that was written to before may be written to again, on
tmpfs always, elsewhere until the page is written back; before Linux 6.13, ctime is also
as coarse as a tick (1 to 10 ms).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Protocol

from allocpolicy.errors import ImageError
from allocpolicy.storage import qemu_lock, read_lease
from allocpolicy.storage.failure import explained
from allocpolicy.storage.inode import inode, marks

_PATIENCE = 5.0  # seconds; who has just written a file closes it within less


class Opened(Protocol):
    """An open image: its path, its descriptor, and its identity when it was opened."""

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def fd(self) -> int: ...  # noqa: D102

    @property
    def identity(self) -> tuple[int, ...]: ...  # noqa: D102


def hold(fd: int, *, path: Path) -> bool:
    """Hold the open image against writers until it is closed, where that is possible.

    :raises ImageError: when somebody has it open for writing.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        refuse_if_busy(fd, path=path)
        try:
            with explained(fd=fd, path=path, needed=0, action="hold it by a lease"):
                return read_lease.take(fd)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                reason = "a process has it open for writing; stop it first"
                raise ImageError(path, reason) from error
            time.sleep(0.05)


def of(fd: int) -> tuple[int, ...]:
    """Return what changes when somebody writes to the file.

    Under a read lease that is which file it is, as long as the lease is intact: others
    may change its owner and dates meanwhile, as libvirt and Nova do.
    """
    status = os.fstat(fd)
    if read_lease.is_held(fd):
        return inode(status)
    return (*inode(status), *marks(status))


def refuse_if_changed(image: Opened) -> None:
    """Check that nobody wrote to the image or replaced it since it was opened.

    :raises ImageError: when it changed, its path leads elsewhere now (an overlay would
        refer to an unchecked file), or somebody has it open for writing.
    """
    refuse_if_written(image)
    try:
        named = os.stat(image.path)
    except OSError as error:
        reason = f"it disappeared while it was read: {error.strerror}"
        raise ImageError(image.path, reason) from error
    if not os.path.samestat(named, os.fstat(image.fd)):
        raise ImageError(image.path, "it was replaced while it was read; try again")
    refuse_if_busy(image.fd, path=image.path)


def refuse_if_written(image: Opened) -> None:
    """Check that nobody wrote to the image since it was opened, whatever has its name.

    :raises ImageError: when somebody did, or opened it for writing under our lease.
    """
    if of(image.fd) != image.identity:
        raise ImageError(
            image.path,
            "it changed while it was read, or a process opened it for writing; stop"
            " that process, and try again",
        )


def refuse_if_busy(fd: int, *, path: Path) -> None:
    """Check that no QEMU process writes to the open image.

    :raises ImageError: when one has it open for writing.
    """
    if qemu_lock.held_for_writing(fd):
        raise ImageError(path, "a QEMU process has it open for writing; stop it first")
