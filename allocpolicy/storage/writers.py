"""Who may write to a file: its owner, and whom its mode or its ACL lets (acl(5))."""

from __future__ import annotations

import errno
import functools
import grp
import os
import stat
import struct
from collections.abc import Iterator

from allocpolicy.storage import credentials
from allocpolicy.storage.credentials import NOBODY, User

_ACL = "system.posix_acl_access"
_VERSION = 4  # bytes
_ENTRY = struct.Struct("<HHI")  # tag, permissions, ID (linux/posix_acl_xattr.h)
_USER, _GROUP_OBJ, _GROUP = 0x02, 0x04, 0x08
_WRITE = 2
_NO_ACL = frozenset({errno.ENODATA, errno.EOPNOTSUPP})
_EVERYBODY = User(uid=NOBODY, gid=NOBODY, name="everybody")


def of(fd: int) -> tuple[User, ...]:
    """Return who may write to an open file.

    A group stands for any member of it, who is otherwise anybody.

    :raises OSError: as fstat(2) and fgetxattr(2).
    """
    status = os.fstat(fd)
    found = [credentials.user(status.st_uid)]
    # With an ACL these bits are its mask, and without they are the group's.
    if status.st_mode & stat.S_IWGRP:
        found += _by_acl(fd, group=status.st_gid)
    if status.st_mode & stat.S_IWOTH:
        found.append(_EVERYBODY)
    return tuple(dict.fromkeys(found))


def _by_acl(fd: int, *, group: int) -> Iterator[User]:
    """Yield the group and all others that the mask lets write."""
    try:
        content = os.getxattr(fd, _ACL)
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
        yield _any_of(group)
        return
    for tag, permissions, number in _ENTRY.iter_unpack(content[_VERSION:]):
        if not permissions & _WRITE:
            continue
        if tag == _USER:
            yield credentials.user(number)
        elif tag in (_GROUP, _GROUP_OBJ):
            yield _any_of(number if tag == _GROUP else group)


@functools.lru_cache(maxsize=256)
def _any_of(gid: int) -> User:
    """Return somebody who is in the group, and is otherwise anybody."""
    try:
        name = f"group {grp.getgrgid(gid).gr_name}"
    except KeyError:
        name = f"group {gid}"
    return User(uid=NOBODY, gid=gid, name=name)
