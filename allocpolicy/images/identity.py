"""Whether an open image is unchanged since it was opened, and nobody writes to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from allocpolicy.errors import ImageError
from allocpolicy.storage import qemu_lock


class Opened(Protocol):
    """An open image: its path, its descriptor, and its identity when it was opened."""

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def fd(self) -> int: ...  # noqa: D102

    @property
    def identity(self) -> tuple[int, ...]: ...  # noqa: D102


def of(fd: int) -> tuple[int, ...]:
    """Return what changes when somebody writes to the file (statx)."""
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def refuse_if_changed(image: Opened) -> None:
    """Check that nobody wrote to the image or replaced it since it was opened.

    :raises ImageError: when it changed, its path leads elsewhere now (an overlay would
        refer to an unchecked file), or somebody has it open for writing.
    """
    if of(image.fd) != image.identity:
        raise ImageError(image.path, "it changed while it was read; try again")
    try:
        named = os.stat(image.path)
    except OSError as error:
        reason = f"it disappeared while it was read: {error.strerror}"
        raise ImageError(image.path, reason) from error
    if not os.path.samestat(named, os.fstat(image.fd)):
        raise ImageError(image.path, "it was replaced while it was read; try again")
    refuse_if_busy(image.fd, path=image.path)


def refuse_if_busy(fd: int, *, path: Path) -> None:
    """Check that no QEMU process writes to the open image.

    :raises ImageError: when one has it open for writing.
    """
    if qemu_lock.held_for_writing(fd):
        raise ImageError(path, "a QEMU process has it open for writing; stop it first")
