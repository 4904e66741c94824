"""Reading with the rights of another user: the kernel decides, at each open(2).

Root reads everything. What a file's owner may read takes his user ID, all of his groups
and every directory of a path into account, ACLs and security modules included. So the
calling thread takes on his file system user (setfsuid(2)), opens, and returns: unlike
with setreuid(2) he can neither signal nor trace us meanwhile.

glibc changes the groups of all threads (setgroups(3)). One thread at a time acts as
somebody else; other threads of a program that uses the library have his groups for
those microseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import pwd
import threading
from collections.abc import Iterator

from allocpolicy.record import dataclass
from allocpolicy.storage import libc
from allocpolicy.storage.signals import interrupts_postponed

_ROOT = 0
NOBODY = 65534  # the kernel's overflowuid and overflowgid
# capabilities(7): bits of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
_READ_ANYTHING = 1 << 1 | 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4  # linux/prctl.h
_ONE_AT_A_TIME = threading.RLock()
_UNCHANGED = 0xFFFFFFFF  # setfsuid(-1) only tells


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody with his groups; ``name`` is for messages."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str


@functools.lru_cache(maxsize=256)
def user(uid: int) -> User:
    """Return a user as the host knows him; one without an account has no groups.

    The group of a file says nothing about its owner: in a setgid directory anybody's
    files get the directory's.
    """
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return User(uid=uid, gid=NOBODY, name=f"user {uid}")
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return User(
        uid=uid,
        gid=account.pw_gid,
        groups=tuple(groups),
        name=f"{account.pw_name} (uid {uid})",
    )


def exceed(one: User) -> bool:
    """Return whether we may read files that the user may not."""
    if one.uid == _ROOT:
        return False
    return os.geteuid() == _ROOT or bool(_capabilities()[0] & _READ_ANYTHING)


@contextlib.contextmanager
def acting_as(one: User) -> Iterator[None]:
    """Open files with the user's rights in the body, if ours exceed them.

    :raises PermissionError: when we may not take on his rights.
    """
    if not exceed(one):
        yield
        return
    with interrupts_postponed(), _ONE_AT_A_TIME, contextlib.ExitStack() as undone:
        # A change of the user would leave us undumpable: programs that we start could
        # not open /proc/PID/fd without CAP_SYS_PTRACE.
        undone.callback(_set_dumpable, libc.value("prctl", _PR_GET_DUMPABLE))
        undone.callback(os.setgroups, os.getgroups())
        os.setgroups(one.groups)
        undone.callback(_set_id, "setfsgid", os.getegid())
        _set_id("setfsgid", one.gid)
        capabilities = _capabilities()
        undone.callback(_set_capabilities, capabilities)
        # The kernel does this itself, unless securebits(7) forbid it.
        lowered = (capabilities[0] & ~_READ_ANYTHING, *capabilities[1:])
        _set_capabilities(lowered)
        undone.callback(_set_id, "setfsuid", os.geteuid())
        _set_id("setfsuid", one.uid)
        yield


def _set_id(function: str, number: int) -> None:
    """Call setfsuid(2) or setfsgid(2), which don't tell whether they failed."""
    libc.value(function, ctypes.c_uint(number))
    if libc.value(function, ctypes.c_uint(_UNCHANGED)) & _UNCHANGED != number:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _set_dumpable(before: int) -> None:
    if before == 1:  # prctl(2) sets no other value
        libc.call("prctl", _PR_SET_DUMPABLE, before)


def _capabilities() -> tuple[int, ...]:
    """Return what capget(2) tells of this thread; the first word is effective."""
    words = (ctypes.c_uint32 * 6)()
    libc.call("capget", _capability_header(), words)
    return tuple(words)


def _set_capabilities(words: tuple[int, ...]) -> None:
    libc.call("capset", _capability_header(), (ctypes.c_uint32 * 6)(*words))


def _capability_header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)  # 0: this thread
