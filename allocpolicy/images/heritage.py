"""The policy that a disk without a stamp has from the nearest disk below with a stamp.

That is for overlays such as external snapshots. It rests on the header of a file of
which nobody said that it is a qcow2: the operator decides whether to believe it. The
header leads no further than the disk's `reach`.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import chain, image_file
from allocpolicy.images import stamp as stamps
from allocpolicy.images.reach import Reach
from allocpolicy.images.stamp import Stamp
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import lease, qemu_lock, writers
from allocpolicy.storage.credentials import User
from allocpolicy.storage.inode import Inode, inode


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """A disk's policy, as its stamp would have it, and the disk that it comes from."""

    stamp: Stamp
    disk: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """An image that was opened, read and closed again."""

    path: Path
    inode: Inode
    header: Header | None
    writers: tuple[User, ...]
    stamp: Stamp | None = None


def of(fd: int, *, path: Path, reach: Reach) -> Inherited:
    """Return the policy of an open overlay without a stamp.

    :raises ImageError: when it is no overlay, when no disk below it has a stamp, or
        when the chain can't be followed that far.
    :raises OSError: when it can't be read.
    """
    if qemu_lock.held_as_raw(fd):
        raise ImageError(path, "QEMU has it open as a raw disk")
    top = _layer(fd, path=path, format=DiskFormat.QCOW2)
    for layer in chain.walk(top, reach=reach, opened=_opened):
        if layer.stamp is not None:
            stamp = replace(layer.stamp, format=DiskFormat.QCOW2)
            return Inherited(stamp=stamp, disk=layer.path)
    raise ImageError(path, "no disk below it has a stamp")


def _opened(path: Path, format: DiskFormat, reach: Reach) -> _Layer:
    """Return an image of the chain.

    :raises ImageError: when it can't be opened, or its stamp contradicts the format.
    """
    with image_file.found(path) as found:
        if lease.is_leased(found.fd):  # opening it would stop its rewrite
            raise ImageError(path, "it is being rewritten")
    with reach.opened(path) as image:
        stamp = stamps.read(image.fd, path=image.path)
        if stamp is not None and stamp.format is not format:
            raise ImageError(path, f"its stamp says {stamp.format}, not {format}")
        return replace(_layer(image.fd, path=image.path, format=format), stamp=stamp)


def _layer(fd: int, *, path: Path, format: DiskFormat) -> _Layer:
    qcow2 = format is DiskFormat.QCOW2
    return _Layer(
        path=path,
        inode=inode(os.fstat(fd)),
        header=read_header(fd, path=path) if qcow2 else None,
        writers=writers.of(fd),
    )
