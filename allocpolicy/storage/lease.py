"""Leases on files (fcntl(2), F_SETLEASE): no other process has the file open.

The kernel refuses a write lease while another process has the file open. A process that
opens it later breaks the lease, which F_GETLEASE shows, and waits until we give it up,
but no longer than /proc/sys/fs/lease-break-time (45 s): then the kernel takes it away.
Our descriptor must be the only one.

Only the file's owner can take one, give it up, and have it given up, and who has
CAP_LEASE, which root lacks in containers and under many AppArmor profiles (Debian's of
libvirtd). There we are the owner for the kernel during that call, if we may.

A lease is on an inode. Where the filesystem passes files of another one on (FUSE,
overlayfs) or shares them between hosts (NFS), who opens the file below it or elsewhere
is not seen: `are_whole`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import signal
import time
from collections.abc import Collection, Iterator

from allocpolicy.record import dataclass
from allocpolicy.storage import credentials, lock_list, mount
from allocpolicy.storage.credentials import Capability
from allocpolicy.storage.inode import Inode, inode

# The VFS breaks leases when it opens an inode. These have one inode for each file, and
# are on one host.
_WHOLE = frozenset({"ext4", "xfs", "btrfs", "tmpfs", "f2fs", "bcachefs", "zfs"})
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM})
OPENED_MEANWHILE = (
    "another process opened it meanwhile; it is unchanged: stop that process, and"
    " try again"
)
# The filesystem has no leases (NFS), or we may not have any on the file.
NO_LEASES = frozenset({errno.EINVAL, errno.ENOLCK}) | _NOT_OURS
_NO_CAPABILITY = (
    "it belongs to {owner}, and a lease on another user's file takes CAP_LEASE, or"
    " CAP_SETUID to act as its owner, and this process has neither: run it {remedy}"
)
_AS_ROOT = (
    "with one of them (a container, an AppArmor profile or a systemd unit withholds"
    " them from root)"
)
_UNKNOWN_OWNER = (
    "its owner is unknown in this user namespace, and a lease on such a file takes"
    " CAP_LEASE outside of any: run it outside of the container"
)
_FORBIDDEN = (
    "a lease on a file of {owner} is forbidden, although this process may act as its"
    " owner: see what AppArmor or SELinux denied in the kernel's log, and allow locks"
)

_ours: list[Inode] = []  # the files on which this process holds leases


@contextlib.contextmanager
def held(fd: int) -> Iterator[None]:
    """Hold a write lease on the open file while the body runs.

    :raises OSError: EAGAIN while another process has the file open, one of `NO_LEASES`
        where leases are unavailable.
    """
    tell(fd)
    change(fd, fcntl.F_WRLCK)
    mine = inode(os.fstat(fd))
    _ours.append(mine)
    try:
        yield
    finally:
        _ours.remove(mine)
        give_up(fd)


def give_up(fd: int) -> None:
    """Give up the lease on the open file, if it is still there.

    :raises OSError: as fcntl(2).
    """
    # EAGAIN: the lease is gone, because the opener waited long enough. EACCES: the file
    # became another's meanwhile; the lease lasts as long as the descriptor.
    with contextlib.suppress(BlockingIOError, PermissionError):
        change(fd, fcntl.F_UNLCK)


def change(fd: int, kind: int) -> None:
    """Take a lease or give it up (F_SETLEASE), as the file's owner if need be.

    :raises OSError: as fcntl(2); EACCES where we may not even act as the owner.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        with credentials.as_owner(fd):
            fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)


def are_ours(fd: int) -> bool:
    """Return whether we may have leases on the open file, which takes none."""
    return credentials.has(Capability.CAP_LEASE) or credentials.may_be_owner(fd)


def refusal(fd: int, error: OSError | None = None) -> str:
    """Return why we have no lease on the open file, and the remedy.

    :param error: one of `NO_LEASES`; None: leases are not `are_ours`.
    """
    if error is not None and error.errno not in _NOT_OURS:
        return f"its filesystem has no leases ({error.strerror})"
    uid = os.fstat(fd).st_uid
    owner = credentials.user(uid).name
    if are_ours(fd):
        return _FORBIDDEN.format(owner=owner)
    if uid == credentials.NOBODY and not credentials.in_initial_namespace():
        return _UNKNOWN_OWNER
    root = os.geteuid() == 0
    remedy = _AS_ROOT if root else "as its owner or as root"
    return _NO_CAPABILITY.format(owner=owner, remedy=remedy)


def are_whole(fd: int) -> bool:
    """Return whether a lease on the open file excludes everybody."""
    return mount.type_by_magic(fd) in _WHOLE


def kill_when_broken(fd: int) -> None:
    """Let the kernel kill this process, instead of telling it, when the lease breaks.

    The signal comes while the opener waits, also to a stopped process. Nothing that
    this process does afterwards reaches the file: only a system call that has begun
    ends. `tell` undoes it.

    :raises OSError: as fcntl(2).
    """
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())  # first: the other was told so far
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)


def tell(fd: int) -> None:
    """Let the kernel tell this process, by a signal that is ignored by default.

    SIGIO, which it would send, kills by default. Choosing SIGURG leaves the handlers of
    other threads alone.
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())


def is_breaking(fd: int) -> bool:
    """Return whether whoever broke the lease on our file still waits in open(2)."""
    status = os.fstat(fd)
    return any(
        one.inode == status.st_ino and one.breaking and one.device in lock_devices(fd)
        for one in _leases(lock_list.read())
    )


def is_whole(fd: int) -> bool:
    """Return whether the lease on the file is intact: nobody has opened it since."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK


def is_open_elsewhere(fd: int) -> bool:
    """Return whether another process has the file open; False if that is unknown."""
    try:
        with held(fd):
            return False
    except OSError as error:
        if error.errno in NO_LEASES:
            return False
        if error.errno != errno.EAGAIN:
            raise
        return True


def is_leased(fd: int) -> bool:
    """Return whether a process holds a lease on the file, as during a rewrite.

    :param fd: opened with O_PATH, which breaks no lease.
    """
    status = os.fstat(fd)
    # Few inodes are under a lease, so the mounts are rarely needed.
    if all(status.st_ino != one.inode for one in _leases(lock_list.read_lately())):
        return False
    devices, others = lock_devices(fd), _are_anothers(status)
    return any(
        one.inode == status.st_ino and one.device in devices
        for one in _leases(lock_list.read())
        if not (others and one.process == os.getpid())
    )


def _are_anothers(status: os.stat_result) -> bool:
    """Return whether what we hold under a file's number is on another file.

    Files in two subvolumes of btrfs may have both numbers in common.
    """
    same = [one for one in _ours if one[1] == status.st_ino]
    return bool(same) and inode(status) not in same


def leased_inodes(*, devices: Collection[str] | None = None) -> frozenset[int]:
    """Return the inode numbers of files under a lease, which opening would break.

    :param devices: list only files on these, as `lock_devices` returns them.
    """
    return frozenset(
        one.inode
        for one in _leases(lock_list.read())
        if devices is None or one.device in devices
    )


def lock_devices(fd: int) -> frozenset[str]:
    """Return the devices that /proc/locks may show for the open file: "major:minor".

    The mount's and stat(2)'s, which differ on btrfs.
    """
    return frozenset({mount.of(fd).device, mount.device_number(fd)})


class Leases:
    """Which files are under a lease, for looking at many.

    :param last: for how many seconds what was read once is believed.
    """

    def __init__(self, *, last: float = 1.0) -> None:
        self._last = last
        self._inodes: frozenset[int] = frozenset()
        self._read = -math.inf

    def include(self, fd: int) -> bool:
        """Return whether the file is under a lease.

        :param fd: opened with O_PATH, which breaks no lease.
        """
        if inode(os.fstat(fd)) in _ours:  # as all disks of a VM, one beside another
            return True
        now = time.monotonic()
        if now - self._read > self._last:
            self._inodes, self._read = leased_inodes(), now
        # Other filesystems have the same inode numbers.
        return os.fstat(fd).st_ino in self._inodes and is_leased(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lease:
    process: int
    device: str
    inode: int
    breaking: bool


def _leases(listed: str) -> Iterator[_Lease]:
    """Yield each lease in the kernel's list.

    Read leases (`read_lease`) are left out: looking at a file doesn't break them.
    """
    for line in listed.splitlines():
        fields = line.split()
        if "LEASE" not in fields or fields[2:4] == ["ACTIVE", "READ"]:
            continue
        for field in fields:
            if field.count(":") == 2:
                major, minor, inode = field.split(":")
                yield _Lease(
                    process=int(fields[-4]),
                    device=f"{int(major, 16)}:{int(minor, 16)}",
                    inode=int(inode),
                    breaking=" BREAKING " in line,
                )
