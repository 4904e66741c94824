"""What the filesystem of one directory is and can do, found by trying.

The trying is done on an unnamed file, so that nothing in the directory changes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.storage import fallocate, inode_flags, lease, staging
from allocpolicy.storage.failure import UNSUPPORTED, free_bytes
from allocpolicy.storage.inode_flags import InodeFlag
from allocpolicy.storage.staging import Staged

_libc = ctypes.CDLL(None, use_errno=True)
_OCTAL = re.compile(r"\\([0-7]{3})")
_PROBE = 64 << 10
_SOON = 0.02  # seconds: a few clock ticks
# include/uapi/linux/magic.h; ext2, ext3 and ext4 have one number.
_MAGIC = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    0x794C7630: "overlay",
}
# Overwriting stays where it is. Of any other filesystem that is not claimed: btrfs, ZFS
# and bcachefs allocate anew, and what FUSE or eCryptfs stand on is not known.
_OVERWRITES_IN_PLACE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    type: str
    source: str
    device: str
    options: str = ""

    @property
    def key(self) -> str:
        """Return the name of its filesystem, as bind mounts have it too."""
        by_device = self.source.startswith("/") or ":" in self.source
        return self.source if by_device else f"{self.source}-{self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem:
    """One directory's filesystem: identity, sizes in bytes, capabilities.

    ``key`` names the filesystem for the reservation lock: the mount's source, which
    bind mounts and btrfs subvolumes share. ``free`` is what ordinary users may take
    (f_bavail), also for root. ``fallocate`` means that the call succeeds and st_blocks
    shows it (ZFS accepts the call and reserves nothing). ``copy_on_write`` means that
    overwriting allocates anew unless the file is NOCOW, or that nobody can tell: with
    ``nocow`` False no reservation can be verified. Of an overlay mount, ``key`` and
    ``copy_on_write`` are those of the filesystem of its upper directory, if that can be
    found; ``type`` stays ``overlay``.
    """

    type: str
    key: str
    block_size: int
    size: int
    free: int
    fallocate: bool
    copy_on_write: bool
    nocow: bool
    user_xattr: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which filesystem an open file is on; the fields are those of `Filesystem`."""

    type: str
    key: str
    copy_on_write: bool


def identify(fd: int) -> Identity:
    """Return which filesystem holds the open file or directory; nothing is tried.

    :raises OSError: when the mount cannot be found.
    """
    mount = mount_of(fd)
    storage = _storage_of(mount, fd)
    return Identity(
        type=mount.type,
        key=storage.key,
        copy_on_write=storage.type not in _OVERWRITES_IN_PLACE,
    )


def mount_of(fd: int) -> Mount:
    """Return the mount that holds the open file, by its mount id (Linux 3.15).

    In a chroot the mount may not be visible; the device and statfs(2) tell the rest.
    """
    info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    wanted = next(
        line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:")
    )
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if fields[0] == wanted:
            kind, source, options = right.split(" ", 2)
            return Mount(
                type=kind, source=_unescape(source), device=fields[2], options=options
            )
    number = os.fstat(fd).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    return Mount(type=_type_by_magic(fd), source="device", device=device)


def lock_devices(fd: int) -> frozenset[str]:
    """Return the devices that /proc/locks may name for the open file: "major:minor".

    That of its mount and that of stat(2), which differ on btrfs.
    """
    number = os.fstat(fd).st_dev
    return frozenset({mount_of(fd).device, f"{os.major(number)}:{os.minor(number)}"})


def _type_by_magic(fd: int) -> str:
    buffer = (ctypes.c_long * 32)()  # struct statfs is 120 bytes, f_type its first
    if _libc.fstatfs(fd, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return _MAGIC.get(buffer[0], f"filesystem {buffer[0]:#x}")


def _storage_of(mount: Mount, fd: int) -> Mount:
    """Return the mount that stores the open file, or new ones of the open directory.

    For an overlay it is that of its upper directory. Where that is named from another
    mount namespace (a container's is), or was hidden, the overlay itself is returned.
    """
    options = mount.options.split(",") if mount.type == "overlay" else []
    found = [one for one in options if one.startswith("upperdir=/")]
    if not found:
        return mount
    named = _unescape(found[0].removeprefix("upperdir="))
    try:
        upper = os.open(named, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return mount
    try:
        # An overlay answers statfs(2) with the figures of its upper directory.
        same = os.fstatvfs(upper).f_blocks == os.fstatvfs(fd).f_blocks
        return mount_of(upper) if same else mount
    finally:
        os.close(upper)


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The bytes of a filesystem, by statvfs(3).

    size: all of it (f_blocks). used: what is taken (f_blocks - f_bfree). free: what
    ordinary users may take (f_bavail). reserved_blocks: what is kept for root, or for
    the filesystem itself (f_bfree - f_bavail).
    """

    size: int
    used: int
    free: int
    reserved_blocks: int


def space(fd: int) -> Space:
    """Return the space of the filesystem of an open file or directory."""
    status = os.fstatvfs(fd)
    unit = status.f_frsize
    return Space(
        size=status.f_blocks * unit,
        used=(status.f_blocks - status.f_bfree) * unit,
        free=status.f_bavail * unit,
        reserved_blocks=(status.f_bfree - status.f_bavail) * unit,
    )


def settle(directory: int) -> None:
    """Let what was taken and given back reach the filesystem's books: syncfs(2).

    btrfs books with the transaction. XFS frees the inodes of removed files in the
    background, a clock tick later (Linux 5.14), and no system call waits for that:
    `wait_until_still` does.
    """
    _libc.syncfs(directory)


def wait_until_still(directory: int) -> None:
    """Wait until what is free stays as it is, but for a second at most."""
    deadline = time.monotonic() + 1
    equal, free = 0, space(directory).free
    while equal < 2 and time.monotonic() < deadline:
        time.sleep(_SOON)
        before, free = free, space(directory).free
        equal = equal + 1 if free == before else 0


def probe(directory: Path) -> Filesystem:
    """Return what the directory's filesystem is and can do.

    :raises DestinationError: when no file can be made in the directory.
    :raises OSError: when the mount cannot be found.
    """
    with staging.create(directory) as staged:
        return probe_file(staged)


def probe_file(staged: Staged) -> Filesystem:
    """Return what the filesystem of an empty staged file is and can do.

    The file is changed by it.

    :raises OSError: when the mount cannot be found.
    """
    identity = identify(staged.directory_fd)
    status = os.fstatvfs(staged.directory_fd)
    copy_on_write = identity.copy_on_write
    nocow = copy_on_write and _accepts_nocow(staged.fd)
    return Filesystem(
        type=identity.type,
        key=identity.key,
        block_size=status.f_bsize,
        size=status.f_blocks * status.f_frsize,
        free=free_bytes(staged.directory_fd),
        fallocate=_reserves(staged.fd),
        copy_on_write=copy_on_write,
        nocow=nocow,
        user_xattr=_accepts_user_xattr(staged.fd),
    )


def _reserves(fd: int) -> bool:
    try:
        fallocate.allocate(fd, offset=0, length=_PROBE)
    except OSError as error:
        # A full filesystem has fallocate as well; the plan finds the lack of room.
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return os.fstat(fd).st_blocks * 512 >= _PROBE


def _accepts_nocow(fd: int) -> bool:
    try:
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
        if error.errno not in UNSUPPORTED | {errno.EPERM, errno.ENOSPC, errno.EDQUOT}:
            raise
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return True


def is_leased(path: Path) -> bool:
    """Return whether somebody has a lease on the file, as whoever rewrites it does.

    :raises OSError: when it is not there.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # which breaks no lease
    try:
        leased = lease.leased_inodes(devices=lock_devices(fd))
        return os.fstat(fd).st_ino in leased
    finally:
        os.close(fd)
