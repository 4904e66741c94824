"""Opening the files of a vmdk that has several: each held and checked as an image is.

What a descriptor may lead to is what all who may write to it may read (`images.reach`),
and nothing outside its directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.foreign import vmdk_extents
from allocpolicy.foreign.vmdk_extents import Extent
from allocpolicy.images import identity, reach
from allocpolicy.images.image_file import ImageFile
from allocpolicy.record import dataclass
from allocpolicy.storage import read_lease
from allocpolicy.storage.inode import inode

_NOT_HELD = (
    "it can't be held against changes while it is read (another user's file, or a"
    " filesystem without leases), and is part of a vmdk of several files; make one file"
    " of them first: qemu-img convert -f vmdk -O qcow2"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An open file of the vmdk, and its identity when it was opened."""

    path: Path
    fd: int
    identity: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The extents of the disk in its order, and the open file of each name."""

    extents: tuple[Extent, ...]
    parts: dict[str, Part]

    def refuse_if_written(self) -> None:
        """Check that nobody wrote to a file since it was opened.

        :raises ImageError: naming the file.
        """
        for part in self.parts.values():
            identity.refuse_if_written(part)


@contextlib.contextmanager
def opened(descriptor: ImageFile) -> Iterator[Files]:
    """Open the files that an open and held descriptor names.

    :raises ImageError: when one is missing, busy, cut short, or can't be held.
    """
    _refuse_unheld(descriptor.fd, path=descriptor.path)
    extents = vmdk_extents.parsed(descriptor.fd, path=descriptor.path)
    allowed = reach.of(descriptor.fd, trusted=())
    with contextlib.ExitStack() as stack:
        parts: dict[str, Part] = {}
        for name in dict.fromkeys(one.name for one in extents if one.name):
            file = stack.enter_context(allowed.opened(descriptor.path.parent / name))
            parts[name] = _held(file, descriptor=descriptor)
            here = [one for one in extents if one.name == name]
            vmdk_extents.check_file(file.fd, here, path=file.path)
        yield Files(extents=extents, parts=parts)


def _held(file: ImageFile, *, descriptor: ImageFile) -> Part:
    beside = inode(os.fstat(file.directory.fd)) == inode(
        os.fstat(descriptor.directory.fd)
    )
    if not beside:
        reason = "a vmdk descriptor names it, and it is in another directory"
        raise ImageError(file.path, f"{reason}; make one file of them with qemu-img")
    identity.hold(file.fd, path=file.path)
    _refuse_unheld(file.fd, path=file.path)
    return Part(path=file.path, fd=file.fd, identity=identity.of(file.fd))


def _refuse_unheld(fd: int, *, path: Path) -> None:
    if not read_lease.is_held(fd):
        raise ImageError(path, _NOT_HELD)
