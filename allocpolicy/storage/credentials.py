"""Acting with the rights of another user: the kernel decides, at each system call.

Root reads everything. What a file's owner may read takes his user ID, all of his groups
and every directory of a path into account, ACLs and security modules included. So the
calling thread takes on his file system user (setfsuid(2)), opens, and returns: unlike
with setreuid(2) he can neither signal nor trace us meanwhile. A lease takes the user ID
alone (`as_owner`).

glibc changes the groups of all threads (setgroups(3)). One thread at a time acts as
somebody else; other threads of a program that uses the library have his groups for
those microseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import fcntl
import functools
import os
import pwd
from _thread import RLock
from collections.abc import Iterator

from allocpolicy.record import dataclass
from allocpolicy.storage import libc
from allocpolicy.storage.signals import interrupts_postponed

_ROOT = 0
NOBODY = 65534  # the kernel's overflowuid and overflowgid
# capabilities(7): bits of CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER
_READ_ANYTHING = 1 << 1 | 1 << 2
_AS_AN_OWNER = 1 << 3
_CAPABILITY_VERSION_3 = 0x20080522
# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 1, 2, 3, 4
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # its inode: PROC_USER_INIT_INO, proc_ns.h
_ONE_AT_A_TIME = RLock()
_UNCHANGED = 0xFFFFFFFF  # setfsuid(-1) only tells


class Capability(enum.IntEnum):
    """What root may do, where nothing withholds it; the numbers are the kernel's."""

    CAP_CHOWN = 0
    CAP_DAC_OVERRIDE = 1
    CAP_FOWNER = 3
    CAP_SETUID = 7
    CAP_LINUX_IMMUTABLE = 9
    CAP_SYS_ADMIN = 21
    CAP_SYS_RESOURCE = 24
    CAP_LEASE = 28


# What is refused for lack of them, as far as files are concerned: capabilities(7).
_CAUSES = {
    errno.EACCES: (Capability.CAP_DAC_OVERRIDE,),
    errno.EPERM: (
        *(Capability.CAP_CHOWN, Capability.CAP_FOWNER, Capability.CAP_LINUX_IMMUTABLE),
        *(Capability.CAP_SYS_ADMIN, Capability.CAP_SYS_RESOURCE),
    ),
}


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
    with _undone_at_once() as undone:
        undone.callback(os.setgroups, os.getgroups())
        os.setgroups(one.groups)
        undone.callback(_set_id, "setfsgid", os.getegid())
        _set_id("setfsgid", one.gid)
        _take_on(one.uid, undone)
        yield


@contextlib.contextmanager
def as_owner(fd: int) -> Iterator[None]:
    """Be the open file's owner for the kernel in the body, and nobody's better.

    :raises PermissionError: when we may not: that takes CAP_SETUID, and an owner who is
        known in our user namespace.
    """
    with _undone_at_once() as undone:
        _take_on(os.fstat(fd).st_uid, undone)
        yield


def may_be_owner(fd: int) -> bool:
    """Return whether the kernel takes us for the open file's owner in `as_owner`.

    An owner who is unknown in our user namespace looks like one who is `NOBODY` there.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        with as_owner(fd):
            # For the owner alone (fcntl(2)); it says nothing of the file, and opens it
            # not.
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_NOATIME)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NOATIME)
    except PermissionError:
        return False
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return True


def has(capability: Capability) -> bool:
    """Return whether we have a capability everywhere, not only in a user namespace."""
    return in_initial_namespace() and bool(_effective() >> capability & 1)


def withheld(error: OSError) -> tuple[Capability, ...]:
    """Return which of root's capabilities we lack, where that may be the error's cause.

    None where we aren't root, whom nothing is expected to be forbidden.
    """
    if os.geteuid() != _ROOT:
        return ()
    effective = _effective()
    causes = _CAUSES.get(error.errno or 0, ())
    return tuple(one for one in causes if not effective >> one & 1)


def in_initial_namespace() -> bool:
    """Return whether all users of the host are known here: no user namespace is."""
    return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE


@contextlib.contextmanager
def _undone_at_once() -> Iterator[contextlib.ExitStack]:
    """Yield a stack that takes this thread's rights back; nothing comes in between."""
    with interrupts_postponed(), _ONE_AT_A_TIME, contextlib.ExitStack() as undone:
        # A change of the user would leave us undumpable: programs that we start could
        # not open /proc/PID/fd without CAP_SYS_PTRACE. It also forgets the signal that
        # was to end us with our parent.
        undone.callback(_set_dumpable, libc.value("prctl", _PR_GET_DUMPABLE))
        undone.callback(libc.call, "prctl", _PR_SET_PDEATHSIG, _signal_with_parent())
        yield undone


def _take_on(uid: int, undone: contextlib.ExitStack) -> None:
    """Be the user for the kernel's questions about files, without rights above his."""
    capabilities = _capabilities()
    undone.callback(_set_capabilities, capabilities)
    # The kernel does this itself, unless securebits(7) forbid it.
    above = _READ_ANYTHING | _AS_AN_OWNER
    _set_capabilities((capabilities[0] & ~above, *capabilities[1:]))
    before = libc.value("setfsuid", ctypes.c_uint(_UNCHANGED)) & _UNCHANGED
    undone.callback(_set_id, "setfsuid", before)
    _set_id("setfsuid", uid)


def _set_id(function: str, number: int) -> None:
    """Call setfsuid(2) or setfsgid(2), which don't tell whether they failed."""
    libc.value(function, ctypes.c_uint(number))
    if libc.value(function, ctypes.c_uint(_UNCHANGED)) & _UNCHANGED != number:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _set_dumpable(before: int) -> None:
    if before == 1:  # prctl(2) sets no other value
        libc.call("prctl", _PR_SET_DUMPABLE, before)


def _signal_with_parent() -> int:
    number = ctypes.c_int()
    libc.call("prctl", _PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value


def _effective() -> int:
    """Return this thread's effective capabilities, as bits."""
    words = _capabilities()
    return words[0] | words[3] << 32


def _capabilities() -> tuple[int, ...]:
    """Return what capget(2) tells of this thread; the first word is effective."""
    words = (ctypes.c_uint32 * 6)()
    libc.call("capget", _capability_header(), words)
    return tuple(words)


def _set_capabilities(words: tuple[int, ...]) -> None:
    libc.call("capset", _capability_header(), (ctypes.c_uint32 * 6)(*words))


def _capability_header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)  # 0: this thread
