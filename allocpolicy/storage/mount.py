"""Finding the filesystem that holds an open file, by proc_pid_mountinfo(5)."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

from allocpolicy.record import dataclass
from allocpolicy.storage import lately, libc
from allocpolicy.storage.inode import inode

_OCTAL = re.compile(r"\\([0-7]{3})")
# include/uapi/linux/magic.h; ext2, ext3 and ext4 share one number.
_MAGIC = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    0xF2F52010: "f2fs",
    0x794C7630: "overlay",
}
# These overwrite blocks in place. For others that is not assumed: btrfs, ZFS and
# bcachefs allocate new blocks, and what is below FUSE or eCryptfs is unknown.
_OVERWRITES_IN_PLACE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of /proc/self/mountinfo; ``options`` are the filesystem's own.

    ``point`` is where it is mounted; empty if that isn't known.
    """

    type: str
    source: str
    device: str
    options: str = ""
    point: str = ""

    @property
    def key(self) -> str:
        """Return the name of its filesystem, which bind mounts share."""
        by_device = self.source.startswith("/") or ":" in self.source
        return self.source if by_device else f"{self.source}-{self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The filesystem that an open file is on.

    The fields are those of `filesystem.Filesystem`.
    """

    type: str
    key: str
    copy_on_write: bool


def identify(fd: int) -> Identity:
    """Return the filesystem that holds the open file or directory, without trials.

    :raises OSError: when the mount cannot be found.
    """
    key = identify, inode(os.fstat(fd))
    return lately.recalled(key, lambda: _identified(fd))


def _identified(fd: int) -> Identity:
    mount = of(fd)
    storage = storage_of(mount, fd)
    return Identity(
        type=mount.type,
        key=storage.key,
        copy_on_write=storage.type not in _OVERWRITES_IN_PLACE,
    )


def of(fd: int) -> Mount:
    """Return the mount that holds the open file, by its mount ID (Linux 3.15).

    In a chroot, mountinfo may not list the mount; the device and type then come from
    stat(2) and statfs(2).
    """
    wanted = _mount_id(fd)
    # Names in it are bytes, of any user's mounts; only space, tab, line feed and
    # backslash are escaped.
    listed = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    for line in listed.split("\n"):
        if line.split(" ", 1)[0] == wanted:
            return _parse(line)
    return Mount(type=type_by_magic(fd), source="device", device=device_number(fd))


def device_number(fd: int) -> str:
    """Return st_dev of the open file as "major:minor"."""
    number = os.fstat(fd).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _mount_id(fd: int) -> str:
    """Return the mount ID of the open file (proc_pid_fdinfo(5))."""
    info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return next(
        line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:")
    )


def _parse(line: str) -> Mount:
    left, _, right = line.partition(" - ")
    device, _, point = left.split(" ")[2:5]
    kind, source, options = right.split(" ", 2)
    return Mount(
        type=kind,
        source=_unescape(source),
        device=device,
        options=options,
        point=_unescape(point),
    )


def type_by_magic(fd: int) -> str:
    """Return the type of the open file's own filesystem (fstatfs(2)).

    ext2, ext3 and ext4 have one number.
    """
    # On xfs it waits for inodes that are being freed (xfs_inodegc_push, Linux 5.14).
    key = type_by_magic, os.fstat(fd).st_dev
    return lately.recalled(key, lambda: _type_by_magic(fd))


def _type_by_magic(fd: int) -> str:
    buffer = (ctypes.c_long * 32)()  # struct statfs is 120 bytes, f_type its first
    libc.call("fstatfs", fd, buffer)
    return _MAGIC.get(buffer[0], f"filesystem {buffer[0]:#x}")


def storage_of(mount: Mount, fd: int) -> Mount:
    """Return the mount that stores the open file, or new files of the open directory.

    For an overlay that is the mount of its upper directory. If that path belongs to
    another mount namespace (as a container's does), or is hidden, return the overlay
    itself.
    """
    named = _upper_directory(mount)
    if named is None:
        return mount
    try:
        upper = os.open(named, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return mount
    try:
        # statfs(2) on an overlay returns the figures of its upper directory.
        same = os.fstatvfs(upper).f_blocks == os.fstatvfs(fd).f_blocks
        return of(upper) if same else mount
    finally:
        os.close(upper)


def _upper_directory(mount: Mount) -> str | None:
    """Return the upper directory's path, as the overlay was mounted."""
    options = mount.options.split(",") if mount.type == "overlay" else []
    found = [one for one in options if one.startswith("upperdir=/")]
    return _unescape(found[0].removeprefix("upperdir=")) if found else None


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
