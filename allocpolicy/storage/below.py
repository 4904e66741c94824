"""What lies below a filesystem: its devices, as far as sysfs shows them to anybody.

fallocate(2) is the filesystem's word; a device that allocates on writing breaks it. A
device is named by /sys/dev/block/MAJOR:MINOR, what it consists of by its ``slaves``
(Documentation/ABI/testing/sysfs-block of the kernel, sysfs-block-dm, sysfs-block-loop).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.record import dataclass
from allocpolicy.storage import inode_flags, lately, libc, mount
from allocpolicy.storage.inode_flags import InodeFlag
from allocpolicy.wording import apart

_DEVICES = Path("/sys/dev/block")
_DEEPEST = 16  # devices below one another; a loop file can't be below itself
_SMALL = 100  # a loop file may lack a part of this many: ext4 punches what it zeroes
_BTRFS_IOC_FS_INFO = 0x8400941F  # _IOR(0x94, 31, 1024 bytes); fsid is at 16
_NETWORK_FILESYSTEMS = re.compile(
    r"nfs4?|cifs|smb3|smbfs|9p|ceph|afs|lustre|virtiofs|fuse|fuseblk|fuse\..*"
)
# What device-mapper's users put before and after the UUID of their devices: LVM2's
# lib/activate/dev_manager.c (layers), cryptsetup, multipath-tools, kpartx, stratisd.
_DM_THIN = r"LVM-.*-tpool|stratis-.*-(thin-fs|thinpool)-.*"
_DM_VDO = r"LVM-.*-vpool|VDO-.*"
_DM_SNAPSHOT = r"LVM-.*-cow"
_DM_KNOWN = r"(part\d+-)?(LVM|CRYPT|mpath|DMRAID|stratis|VDO)-.*"
_REMOTE_NAMES = r"(nbd|rbd|drbd|aoe|etherd!)\S*"
# iSCSI sessions, NVMe over fabrics; the device's own directory is below them.
_REMOTE_PATHS = r"/session\d+/|/nvme-fabrics/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A device below a filesystem, or what serves it.

    ``exception`` says why storage that the filesystem reserved may not be there when it
    is written; None means that nothing known speaks against it.
    """

    name: str
    kind: str
    exception: str | None = None


def layers(fd: int) -> tuple[Layer, ...]:
    """Return what is below the filesystem of an open file, each thing once, top first.

    :raises OSError: when the mount cannot be found.
    """
    found = {layer.name: layer for layer in _below(fd, depth=0)}
    return tuple(found.values())


def exception(fd: int) -> str | None:
    """Return why the filesystem of the open file can't guarantee storage, or None."""
    return lately.recalled((exception, os.fstat(fd).st_dev), lambda: _exception(fd))


def _exception(fd: int) -> str | None:
    try:
        found = layers(fd)
    except OSError:
        return None
    return next((layer.exception for layer in found if layer.exception), None)


def _below(fd: int, *, depth: int) -> Iterator[Layer]:
    there = mount.storage_of(mount.of(fd), fd)
    if _NETWORK_FILESYSTEMS.fullmatch(there.type):
        yield Layer(
            name=there.source,
            kind=there.type,
            exception=f"{there.type}: what its server or program has below is unknown",
        )
        return
    for device in _devices(fd, there):
        yield from _device(device, depth=depth)


def _devices(fd: int, there: mount.Mount) -> Iterator[Path]:
    """Yield the filesystem's devices; btrfs has several, and none as st_dev."""
    if not there.device.startswith("0:"):
        yield _DEVICES / there.device
    elif there.source.startswith("/"):
        try:
            yield from sorted((of_btrfs(fd) / "devices").iterdir())
        except OSError:  # found with O_PATH, or sysfs is hidden: one of its devices
            with contextlib.suppress(OSError):
                yield _DEVICES / _number(os.stat(there.source).st_rdev)


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def of_btrfs(fd: int) -> Path:
    """Return where sysfs describes the btrfs that holds the open file.

    :raises OSError: when it is none.
    """
    buffer = ctypes.create_string_buffer(1024)
    libc.call("ioctl", fd, ctypes.c_ulong(_BTRFS_IOC_FS_INFO), buffer)
    return Path("/sys/fs/btrfs", _uuid(buffer.raw[16:32]))


def _uuid(value: bytes) -> str:
    digits = value.hex()  # the uuid module imports platform, which takes 2 ms
    ends = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    return "-".join(digits[start:end] for start, end in ends)


def _device(link: Path, *, depth: int) -> Iterator[Layer]:
    """Yield a device, and what it is on."""
    path = link.resolve()
    if depth > _DEEPEST or not path.exists():  # a container may hide sysfs
        reason = f"it is on device {link.name}, which /sys does not show"
        yield Layer(name=link.name, kind="unknown", exception=reason)
        return
    if (path / "partition").exists():
        path = path.parent
    name, backing = path.name, path / "loop" / "backing_file"
    if backing.exists():
        yield from _loop(name, path, Path(_read(backing)), depth=depth)
        return
    yield _layer(name, path)
    for slave in sorted((path / "slaves").glob("*")):
        yield from _device(slave, depth=depth + 1)


def _layer(name: str, path: Path) -> Layer:
    if (path / "dm").exists():
        return mapped(_read(path / "dm/name") or name, _read(path / "dm/uuid"))
    if (path / "md").exists():
        return Layer(name=name, kind="md")
    if name.startswith("zram"):
        reason = f"it is on {name}: compressed memory"
        return Layer(name=name, kind="zram", exception=reason)
    if re.fullmatch(_REMOTE_NAMES, name) or re.search(_REMOTE_PATHS, f"{path}/"):
        reason = f"it is on {name}, a network device: what its server has is unknown"
        return Layer(name=name, kind="network", exception=reason)
    return Layer(name=name, kind="bcache" if name.startswith("bcache") else "disk")


def mapped(name: str, identity: str) -> Layer:
    """Return a device of device-mapper; sysfs shows its UUID, and not its target."""
    for pattern, kind, what in (
        (_DM_THIN, "thin", "a thin pool"),
        (_DM_VDO, "vdo", "VDO"),
        (_DM_SNAPSHOT, "snapshot", "a snapshot"),
    ):
        if re.fullmatch(pattern, identity):
            reason = f"it is on {what}, {name}, which allocates as it is written to"
            return Layer(name=name, kind=kind, exception=reason)
    if re.fullmatch(_DM_KNOWN, identity):
        return Layer(name=name, kind="device-mapper")
    reason = f"it is on {name} of device-mapper: its kind is unknown, perhaps thin"
    return Layer(name=name, kind="unknown", exception=reason)


def _loop(name: str, path: Path, file: Path, *, depth: int) -> Iterator[Layer]:
    """Yield a loop device and what its file is on."""
    length = int(_read(path / "size") or 0) * 512
    try:
        fd = os.open(file, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        yield _hidden(name, file)
        return
    try:
        status = os.fstat(fd)
        if stat.S_ISBLK(status.st_mode):
            yield Layer(name=name, kind="loop")
            yield from _device(_DEVICES / _number(status.st_rdev), depth=depth + 1)
        elif status.st_size < length:  # of another namespace, or replaced
            yield _hidden(name, file)
        else:
            reason = _lack(file, status) or _moves(fd, file)
            yield Layer(name=name, kind="loop", exception=reason)
            yield from _below(fd, depth=depth + 1)
    finally:
        os.close(fd)


def _hidden(name: str, file: Path) -> Layer:
    reason = f"it is on {name}, a loop device whose file can't be looked at: {file}"
    return Layer(name=name, kind="loop", exception=reason)


def _lack(file: Path, status: os.stat_result) -> str | None:
    missing = status.st_size - status.st_blocks * 512
    if missing * _SMALL <= status.st_size:
        return None
    has, size = apart(status.st_blocks * 512, status.st_size)
    return f"it is on a sparse loop file: {file} has {has} of {size}"


def _moves(fd: int, file: Path) -> str | None:
    """Return why overwriting the file allocates, or None."""
    try:
        if not mount.identify(fd).copy_on_write or _is_nocow(fd):
            return None
    except OSError:
        return None
    return f"it is on a loop file that moves when it is overwritten: {file}"


def _is_nocow(fd: int) -> bool:
    """Return whether a file found with O_PATH is NOCOW; False if we may not read it."""
    try:
        readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return inode_flags.has(readable, InodeFlag.NOCOW)
    finally:
        os.close(readable)


def _read(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes()).strip()  # a file's name is bytes
    except OSError:
        return ""
