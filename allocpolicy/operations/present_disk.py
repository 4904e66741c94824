"""What is where a disk is to be, held against what is wanted of it.

A disk that exists keeps its format, what it is based on and at least its size: whoever
asks for another of these is told, and nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from allocpolicy.contract.facts import BackingFile, DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import Error, ImageError, InvalidRequest
from allocpolicy.image_cache import hashes, home, location
from allocpolicy.images import chain, existing, image_file
from allocpolicy.images import reach as reaches
from allocpolicy.images import stamp as stamps
from allocpolicy.images.image_file import ImageFile
from allocpolicy.operations.provision import Order
from allocpolicy.qcow2.header import read_header
from allocpolicy.storage import directories
from allocpolicy.storage.inode import inode
from allocpolicy.wording import apart


def virtual_size(order: Order, *, policy: Policy) -> int:
    """Return the virtual size of the disk that is there, in bytes.

    :raises ImageError: when it can't be opened, is of another format than asked for, or
        is based on another image.
    :raises InvalidRequest: when it is larger than asked for.
    """
    with (
        existing.at_rest(order.destination) as found,
        image_file.reopened(found) as image,
    ):
        _refuse_format(image, order.format)
        size, below = _look(image, format=order.format, policy=policy)
    if order.base is not None:
        _refuse_base(order.base, image.path, below, policy=policy)
    wanted = order.size
    if wanted is not None and wanted < size:
        has, asked = apart(size, wanted)
        raise InvalidRequest(
            f"{image.path}: it has {has}, and {asked} are asked for: a disk never"
            f" shrinks; ask for at least what it has"
        )
    return size


def _refuse_format(image: ImageFile, wanted: DiskFormat) -> None:
    """Check the format in the disk's stamp; that of others is the caller's word."""
    stamp = stamps.read(image.fd, path=image.path)
    if stamp is not None and stamp.format is not wanted:
        reason = (
            f"it is {stamp.format}, and {wanted} is asked for: a disk that exists keeps"
            f" its format; ask for {stamp.format}, or convert it with qemu-img"
        )
        raise ImageError(image.path, reason)


def _look(
    image: ImageFile, *, format: DiskFormat, policy: Policy
) -> tuple[int, tuple[BackingFile, ...]]:
    """Return the virtual size, and the images below.

    :raises ImageError: when it is no qcow2, but should be one.
    """
    if format is DiskFormat.RAW:
        return os.fstat(image.fd).st_size, ()
    header = read_header(image.fd, path=image.path)
    reach = reaches.of(image.fd, trusted=policy.trusted_base_directories)
    below = chain.chain(header, fd=image.fd, path=image.path, reach=reach)
    return header.virtual_size, below


def _refuse_base(
    base: Path, disk: Path, below: Iterable[BackingFile], *, policy: Policy
) -> None:
    """Check that an overlay is on the image that it is to start from.

    What a disk without a backing file was copied from is not known.

    :raises ImageError: when it is on another one.
    """
    below = tuple(below)
    if below and not any(_is(one.path, base, policy=policy) for one in below):
        reason = (
            f"it is based on {below[0].path}, and {base} is asked for: a disk that"
            " exists keeps its content; remove it first if it is to start anew"
        )
        raise ImageError(disk, reason)


def _is(path: Path, base: Path, *, policy: Policy) -> bool:
    """Return whether it is the image, or the image's copy in an image cache."""
    if os.path.realpath(path) == os.path.realpath(base):
        return True
    with contextlib.suppress(OSError):
        if inode(os.stat(path)) == inode(os.stat(base)):
            return True
    if not location.is_entry(path, configured=policy.image_cache_dir):
        return False
    digest = _digest(path.parent, base)
    return digest is None or path.name.startswith(digest)


def _digest(cache: Path, source: Path) -> str | None:
    """Return the hash that an image cache remembers of a source, if it does."""
    with (
        contextlib.suppress(Error, OSError),
        directories.opened(cache) as directory,
        image_file.opened(source) as image,
    ):
        return hashes.recall(home.of(directory), image.fd)
    return None
