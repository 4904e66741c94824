"""The external data file of a qcow2: opened as the disk's header names it, if at all.

Specification: QEMU's docs/interop/qcow2.rst, "External data file name string". Its
content is always raw. The disk's writers may have written the name, so that it leads no
further than a backing file's does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError, OutOfReach
from allocpolicy.images import backing_name
from allocpolicy.images.image_file import ImageFile
from allocpolicy.images.reach import NOT_FOLLOWED, Reach
from allocpolicy.qcow2.header import Header
from allocpolicy.storage.inode import inode

_NAMELESS = "the disk's header doesn't name it"
_PROTOCOL = "it is not a file: QEMU takes what is before the colon for a protocol"
_RELATIVE = (
    "QEMU looks for it in the directory in which it is started; record an absolute path"
    " with qemu-img amend -o data_file=PATH"
)


def named(header: Header) -> Path | None:
    """Return the name that the header records, or None."""
    return Path(header.data_file) if header.data_file else None


@contextlib.contextmanager
def opened(
    header: Header, *, disk: int, path: Path, reach: Reach
) -> Iterator[ImageFile]:
    """Open the external data file of an open disk for reading.

    :param path: the disk's, for messages.
    :raises OutOfReach: when it is not to be followed.
    :raises ImageError: when the name is missing, relative or no path, or as
        `Reach.opened` does: no such file, or not a regular one.
    """
    name = named(header)
    if name is None:
        raise ImageError(path, _NAMELESS)
    if not reach.followed:
        raise OutOfReach(name, NOT_FOLLOWED)
    if backing_name.has_protocol(header.data_file or ""):
        raise ImageError(name, _PROTOCOL)
    if not name.is_absolute():
        raise ImageError(name, _RELATIVE)
    with contextlib.suppress(OSError):  # found out before our own lease is in the way
        if inode(os.stat(name)) == inode(os.fstat(disk)):
            raise ImageError(name, "it is the disk itself")
    with reach.opened(name) as image:
        yield image


def full_size(header: Header, *, mapped: bool) -> int:
    """Return the bytes that the file has when the guest has written everything.

    The first write to a cluster writes all of it, also what is beyond the virtual size.
    """
    size, whole = header.cluster_size, header.virtual_size
    return whole if mapped else -(-whole // size) * size
