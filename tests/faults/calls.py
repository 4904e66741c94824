"""The calls of a command that was traced, and the faults that fit each of them."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Action(IntEnum):
    """What the tracer does at a call; tracer.c has the same numbers."""

    COUNT = 0
    FAIL = 1
    SHORTEN = 2
    SIGNAL = 3
    SIGNAL_CALLER = 4


class Whose(StrEnum):
    """Which process makes a call; tracer.c has the same letters."""

    COMMAND = "c"
    FORK = "f"  # of the command
    PROGRAM = "p"  # another one, that the command started


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call about a file below the directory that is watched."""

    whose: Whose
    number: int  # among those of the same name, from 1
    injected: bool
    by_name: bool  # otherwise it is about an open descriptor
    name: str
    arguments: tuple[int, ...]  # the first three
    path: str

    def __str__(self) -> str:
        return f"{self.name} #{self.number} ({self.whose.name.lower()}) of {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is made to happen at a call: ``value`` is an errno or a signal."""

    action: Action
    value: int = 0

    def __str__(self) -> str:
        if self.action is Action.FAIL:
            return errno.errorcode[self.value]
        if self.action is Action.SIGNAL:
            return signal.Signals(self.value).name
        if self.action is Action.SIGNAL_CALLER:
            return f"{signal.Signals(self.value).name} of a fork"
        return "short"


FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO,)
READ_ONLY = (errno.EROFS,)
DENIED = (errno.EACCES,)
MEMORY = (errno.ENOMEM,)
INTERRUPTED = (errno.EINTR,)
NO_LOCKS = (errno.ENOLCK,)

READS = ("read", "pread64", "readv", "preadv", "preadv2")
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range")
SYNCS = ("fsync", "fdatasync", "syncfs", "sync_file_range")
NAMES = ("linkat", "renameat", "renameat2", "symlinkat", "mkdirat", "mkdir", "link")
REMOVALS = ("unlinkat", "unlink", "rmdir")
ATTRIBUTES = ("fsetxattr", "setxattr", "fremovexattr", "fchmod", "fchown", "utimensat")
STATUSES = ("newfstatat", "statx", "stat", "lstat", "access", "readlink", "readlinkat")
OTHER_LOOKS = ("fstat", "fstatfs", "statfs", "lseek", "getdents64")
ATTRIBUTE_LOOKS = ("fgetxattr", "getxattr", "listxattr", "flistxattr")
LOOKS = {*READS, *STATUSES, *OTHER_LOOKS, *ATTRIBUTE_LOOKS}
# What each call may fail of; any other of EIO.
ERRORS = {
    **dict.fromkeys(READS, BROKEN + INTERRUPTED),
    **dict.fromkeys((*WRITES, "fallocate"), FULL + BROKEN + INTERRUPTED),
    **dict.fromkeys((*SYNCS, "ftruncate"), FULL + BROKEN),
    **dict.fromkeys(NAMES, FULL + BROKEN + READ_ONLY + DENIED),
    **dict.fromkeys(REMOVALS, BROKEN + READ_ONLY + DENIED),
    **dict.fromkeys(ATTRIBUTES, FULL + BROKEN + READ_ONLY),
    **dict.fromkeys(("getdents64", "mmap"), BROKEN + MEMORY),
    "flock": INTERRUPTED + NO_LOCKS,
}
# From include/uapi/asm-generic/fcntl.h and include/uapi/linux/fcntl.h.
F_LOCKS = {5, 6, 36, 37}
F_WAITING_LOCKS = {7, 38}
F_SETLEASE = 1024
# From include/uapi/linux/fs.h: what changes the file.
FICLONERANGE, FICLONE = 0x4020940D, 0x40049409
FSSETXATTR, SETFLAGS = 0x401C5820, 0x40086602


def faults_of(call: Call) -> Iterator[Fault]:
    """Yield each fault that the kernel may let this call meet."""
    for number in errors_of(call):
        yield Fault(action=Action.FAIL, value=number)
    if call.name in READS + WRITES:
        yield Fault(action=Action.SHORTEN)
    if call.whose is not Whose.PROGRAM:
        yield Fault(action=Action.SIGNAL, value=signal.SIGINT)
    if call.whose is not Whose.PROGRAM and may_change(call):
        yield Fault(action=Action.SIGNAL, value=signal.SIGKILL)
    if call.whose is Whose.FORK and may_change(call):
        yield Fault(action=Action.SIGNAL_CALLER, value=signal.SIGKILL)


def may_change(call: Call) -> bool:
    """Return whether it is no mere look: before one, a kill leaves what it left before.

    Locks and leases count, as others may see them.
    """
    return call.name not in LOOKS


def errors_of(call: Call) -> tuple[int, ...]:
    """Return the errors that the call's manual page, or its filesystem, has for it."""
    if call.name in {"open", "openat", "openat2"}:
        return errors_of_open(call)
    if call.name == "ioctl":
        return errors_of_ioctl(call.arguments[1])
    if call.name == "fcntl":
        return errors_of_fcntl(call.arguments[1])
    if call.name in STATUSES and call.by_name:
        return BROKEN + DENIED
    return ERRORS.get(call.name, BROKEN)


def errors_of_open(call: Call) -> tuple[int, ...]:
    # openat2 has its flags in a structure; only directories are opened by it.
    position = {"open": 1, "openat": 2, "openat2": None}[call.name]
    flags = 0 if position is None else call.arguments[position]
    if flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY):
        return FULL + BROKEN + READ_ONLY + DENIED
    if flags & os.O_ACCMODE:
        return BROKEN + READ_ONLY + DENIED + MEMORY
    return BROKEN + DENIED + MEMORY


def errors_of_ioctl(request: int) -> tuple[int, ...]:
    if request in {FICLONE, FICLONERANGE, FSSETXATTR, SETFLAGS}:
        return FULL + BROKEN
    return BROKEN + MEMORY


def errors_of_fcntl(request: int) -> tuple[int, ...]:
    if request in F_WAITING_LOCKS:
        return INTERRUPTED + NO_LOCKS
    if request in F_LOCKS:
        return NO_LOCKS
    return MEMORY if request == F_SETLEASE else ()
