"""Moving names atomically: renameat2(2) with its flags (Linux 3.15)."""

from __future__ import annotations

import errno
import os

from allocpolicy.storage import libc

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
# Unsupported: EINVAL (NFS, old FUSE), ENOSYS where the call is missing.
NO_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def exchange(first: str, second: str, *, directory: int) -> None:
    """Exchange the files behind two names in one directory, atomically.

    :raises OSError: one of `NO_EXCHANGE` where it is unsupported.
    """
    names = os.fsencode(first), os.fsencode(second)
    libc.call("renameat2", directory, names[0], directory, names[1], RENAME_EXCHANGE)


def without_replacing(name: str, new: str, *, source: int, target: int) -> None:
    """Give a file another name, perhaps in another directory, unless that is taken.

    It is one step. Where the filesystem has none (NFS, old ZFS) these are two,
    linkat(2) and unlinkat(2): a kill in between leaves both names.

    :param source: the open directory of the name.
    :param target: the open directory of the new one.
    :raises OSError: EEXIST when the new name is taken, EXDEV on another filesystem.
    """
    names = os.fsencode(name), os.fsencode(new)
    try:
        libc.call("renameat2", source, names[0], target, names[1], RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in NO_EXCHANGE:
            raise
        os.link(name, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        os.unlink(name, dir_fd=source)
