"""What a directory's filesystem is, and what it can do, found by trying.

The trials use an unnamed file and change nothing in the directory.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from allocpolicy.record import dataclass
from allocpolicy.storage import (
    budget,
    fallocate,
    inode_flags,
    lately,
    mount,
    space,
)
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import FAULTS, NO_SPACE, UNSUPPORTED
from allocpolicy.storage.inode import inode
from allocpolicy.storage.inode_flags import InodeFlag

if TYPE_CHECKING:
    from allocpolicy.storage.staging import Staged

_PROBE = 64 << 10
_RESERVING = frozenset({"ext4", "xfs", "btrfs", "tmpfs", "f2fs", "bcachefs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem:
    """One directory's filesystem: identity, sizes, capabilities.

    If it is ``copy_on_write`` and not ``nocow``, no reservation can be verified. On an
    overlay mount, ``key`` and ``copy_on_write`` are those of the upper directory's
    filesystem, if it can be found; ``type`` stays ``overlay``.
    """

    type: str  #: as /proc/mounts spells it
    #: its name for the reservation lock: the mount's source, which bind mounts and
    #: btrfs subvolumes share
    key: str
    block_size: int  #: bytes of a block
    size: int  #: bytes in all
    free: int  #: bytes that ordinary users may take (f_bavail), even for root
    #: the call succeeds and st_blocks shows it; ZFS accepts it and reserves nothing
    fallocate: bool
    #: overwriting allocates new blocks unless the file is NOCOW, or it isn't known
    #: whether it does
    copy_on_write: bool
    nocow: bool  #: files can be NOCOW
    user_xattr: bool  #: files can have user xattrs, and so a stamp


def probe(directory: Directory) -> Filesystem:
    """Return what the directory's filesystem is and can do.

    :raises DestinationError: when no file can be created in the directory.
    :raises OSError: when the mount cannot be found.
    """
    from allocpolicy.storage import staging  # few disks need a trial

    with staging.create(directory) as staged:
        return probe_file(staged)


def probe_file(staged: Staged) -> Filesystem:
    """Return what the filesystem of an empty staged file is and can do.

    The trials change the file.

    :raises OSError: when the mount cannot be found.
    """
    identity = mount.identify(staged.directory_fd)
    found = budget.space_of(staged.directory_fd)
    nocow, reserves, has_xattrs = lately.recalled(
        (probe_file, inode(os.fstat(staged.directory_fd))),
        lambda: _tried(staged.fd, copy_on_write=identity.copy_on_write),
    )
    return Filesystem(
        type=identity.type,
        key=identity.key,
        block_size=os.fstatvfs(staged.directory_fd).f_bsize,
        size=found.size,
        free=found.free,
        fallocate=reserves,
        copy_on_write=identity.copy_on_write,
        nocow=nocow,
        user_xattr=has_xattrs,
    )


def _tried(fd: int, *, copy_on_write: bool) -> tuple[bool, bool, bool]:
    """Return whether an empty file can be NOCOW, be reserved, and have user xattrs."""
    # First, because btrfs accepts the flag only while the file is empty.
    nocow = copy_on_write and _accepts_nocow(fd)
    return nocow, _reserves(fd), _accepts_user_xattr(fd)


def of_file(fd: int) -> Filesystem:
    """Return what the filesystem of an open file is; its type says what it can do.

    For where nothing can be tried. A reservation finds out at once what is not so.

    :raises OSError: when the mount cannot be found.
    """
    identity, found = mount.identify(fd), space.of(fd)
    return Filesystem(
        type=identity.type,
        key=identity.key,
        block_size=os.fstatvfs(fd).f_bsize,
        size=found.size,
        free=found.free,
        fallocate=identity.type in _RESERVING,
        copy_on_write=identity.copy_on_write,
        nocow=identity.copy_on_write and identity.type == "btrfs",
        user_xattr=_has_user_xattr(fd),
    )


def _has_user_xattr(fd: int) -> bool:
    try:
        os.getxattr(fd, "user.probe")
    except OSError as error:
        return error.errno not in UNSUPPORTED
    return True


def _reserves(fd: int) -> bool:
    try:
        fallocate.allocate(fd, offset=0, length=_PROBE)
    except OSError as error:
        if error.errno in FAULTS:
            raise
        # A full filesystem supports fallocate too; the plan detects the lack of space.
        return error.errno in NO_SPACE
    return os.fstat(fd).st_blocks * 512 >= _PROBE


def _accepts_nocow(fd: int) -> bool:
    """Set the flag; a compression that the directory gave the file ends."""
    try:
        inode_flags.remove(fd, InodeFlag.COMPR)
        inode_flags.add(fd, InodeFlag.NOCOW)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EINVAL, errno.EPERM}:
            raise
        return False
    return inode_flags.has(fd, InodeFlag.NOCOW)


def _accepts_user_xattr(fd: int) -> bool:
    try:
        os.setxattr(fd, "user.probe", b"{}")
    except OSError as error:
        if error.errno not in UNSUPPORTED | NO_SPACE | {errno.EPERM}:
            raise
        return error.errno in NO_SPACE
    return True
