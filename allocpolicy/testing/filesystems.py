"""Real filesystems for tests, made on files and mounted through loop devices.

All of it takes root, and the programs of each filesystem; what the host lacks is told
by `Unavailable`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# What mkfs needs to hold its peace and to overwrite what it finds.
MKFS_OPTIONS = {
    "btrfs": ("-q", "-f"),
    "ext2": ("-q", "-F"),
    "ext4": ("-q", "-F"),
    "xfs": ("-q", "-f"),
}
# ramfs has no direct I/O, as tmpfs had none before Linux 6.6.
MEMORY = ("tmpfs", "ramfs")
LARGEST_STORED = 4 << 30  # a larger filesystem is on a sparse file
# Discards would punch holes into the file that a filesystem is on; only btrfs discards
# unless it is told not to.
NODISCARD = {"btrfs": ("nodiscard",)}
KINDS = (*MKFS_OPTIONS, "tmpfs")

# Of fs/xfs/libxfs/xfs_fs.h: version 1, XFS_EOF_FLAGS_SYNC. Since Linux 5.15 it also
# waits until removed files have given back their storage; no other call does.
XFS_IOC_FREE_EOFBLOCKS = 0x8080583A
XFS_EOFBLOCKS = struct.pack("=II120x", 1, 1)

# mount(8) says these when the host has no such filesystem, no loop device or no right
# to mount (root in a container); anything else that it says is a mistake of the test.
HOST_REFUSALS = ("unknown filesystem type", "loop device", "permission denied")


class Unavailable(Exception):
    """This host can't run the test; the message says what it lacks."""


def require_program(name: str) -> str:
    """Return the path of a program.

    :raises Unavailable: when it is not installed.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


_TRIES = 40  # to unmount what nobody seems to use


@contextmanager
def mounted(
    kind: str,
    *,
    size: int,
    directory: Path,
    options: Sequence[str] = (),
    mkfs_options: Sequence[str] = (),
    sector_size: int | None = None,
    sparse: bool = False,
) -> Iterator[Path]:
    """Make a filesystem of ``size`` bytes below ``directory``; yield its mount point.

    With ``sector_size`` it is on a device with such sectors. Its file has all of its
    storage, unless it is to be ``sparse`` or is larger than `LARGEST_STORED`. It is
    unmounted and its file removed whatever happens. mkfs.xfs refuses less than 300 MiB,
    mkfs.btrfs less than about 110 MiB.

    :raises Unavailable: when the host lacks the filesystem, its mkfs, loop devices or
        the right to mount.
    """
    if os.geteuid() != 0:
        raise Unavailable("mounting filesystems takes root")
    place = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=directory))
    stack = ExitStack()
    try:
        if kind in MEMORY:
            options = (f"size={size}", *options)
            source = Path(kind)
        elif sector_size is not None:
            source = stack.enter_context(
                loop_device(size=size, sector_size=sector_size, directory=place)
            )
            make_filesystem(kind, source, options=mkfs_options)
        else:
            options = ("loop", *options)
            source = make_image(kind, size=size, directory=place, options=mkfs_options)
        if kind not in MEMORY:
            options = (*NODISCARD.get(kind, ()), *options)
            if not sparse and size <= LARGEST_STORED:
                run("fallocate", "--length", str(size), place / "image")
        mount_point = place / "mnt"
        mount_point.mkdir()
        mount(kind, source=source, mount_point=mount_point, options=options)
        try:
            yield mount_point
        finally:
            unmount(mount_point)
    finally:
        stack.close()
        remove_tree(place)


@contextmanager
def loop_device(*, size: int, sector_size: int, directory: Path) -> Iterator[Path]:
    """Yield a loop device of ``size`` bytes, on a sparse file below ``directory``.

    :raises Unavailable: when the host has no loop devices.
    """
    image = directory / "image"
    with image.open("wb") as file:
        file.truncate(size)
    losetup = require_program("losetup")
    command = [losetup, "--find", "--show", "--sector-size", str(sector_size)]
    made = subprocess.run(
        [*command, image], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise Unavailable(made.stderr.strip())
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        run(losetup, "--detach", device)


def make_image(
    kind: str, *, size: int, directory: Path, options: Sequence[str] = ()
) -> Path:
    """Make a filesystem on a sparse file and return the file's path."""
    image = directory / "image"
    with image.open("wb") as file:
        file.truncate(size)
    make_filesystem(kind, image, options=options)
    return image


def make_filesystem(kind: str, device: Path, *, options: Sequence[str] = ()) -> None:
    """Make a filesystem on a device or in a file."""
    mkfs = require_program(f"mkfs.{kind}")
    run(mkfs, *MKFS_OPTIONS[kind], *options, device)


def mount(
    kind: str, *, source: Path, mount_point: Path, options: Sequence[str]
) -> None:
    """Mount a filesystem.

    :raises Unavailable: when it is the host that can't.
    """
    program = require_program("mount")
    try:
        run(program, "-t", kind, "-o", ",".join(options), source, mount_point)
    except subprocess.CalledProcessError as error:
        if any(refusal in error.stderr for refusal in HOST_REFUSALS):
            raise Unavailable(error.stderr.strip()) from error
        raise


def unmount(mount_point: Path) -> None:
    """Unmount a filesystem, detaching it where something still uses it.

    A disk that is being prepared in the background is waited for.

    :raises AssertionError: when it was in use: a test left something open.
    """
    umount, tries = require_program("umount"), _TRIES
    try:
        while True:
            try:
                run(umount, mount_point)
            except subprocess.CalledProcessError:
                if not wait_for_preparing(mount_point):
                    if not tries:
                        raise
                    # One may just begin, under another command's name, or have ended.
                    tries -= 1
                    time.sleep(0.05)
            else:
                return
    except subprocess.CalledProcessError as error:
        run(umount, "--lazy", mount_point)
        raise AssertionError(
            f"{error.stderr.strip()}; open there: {open_below(mount_point)}; "
            "it was detached, its loop device goes with the last user"
        ) from error


def wait_for_preparing(directory: Path) -> bool:
    """Wait until no disk is prepared below a directory; return whether one was."""
    was = False
    while preparing(directory):
        was = True
        time.sleep(0.05)
    return was


def preparing(directory: Path) -> set[int]:
    """Return the processes that prepare a disk below a directory."""
    named = filter(_prepares, _processes())
    return {process for process in named if _open_of(process, directory)}


def _prepares(process: int) -> bool:
    """Return whether a process prepares a disk, or is one that exec(2) is starting.

    Who started it goes on before the kernel has set the new command line.
    """
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        return not command or b"background.main()" in command
    return False


def open_below(directory: Path) -> list[str]:
    """Return what processes hold open below a directory, as ``pid: path``."""
    return [
        f"{process}: {target}"
        for process in _processes()
        for target in _open_of(process, directory)
    ]


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _open_of(process: int, directory: Path) -> list[str]:
    """Return what a process holds open below a directory; nothing if it is gone."""
    found = []
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):  # the descriptor is gone by now
                target = os.readlink(f"/proc/{process}/fd/{number}")
                if target.startswith(f"{directory}/"):
                    found.append(target)
    return found


def remove_tree(directory: Path) -> None:
    """Remove a directory with all in it, immutable and append-only files included.

    A disk that is being prepared there is waited for: it would get its name meanwhile.
    """
    wait_for_preparing(directory)
    # chattr fails where the filesystem has no such flags; then there are none to clear.
    subprocess.run(
        [require_program("chattr"), "-R", "-f", "-i", "-a", directory],
        capture_output=True,
        check=False,
    )
    shutil.rmtree(directory)


def available(mount_point: Path) -> int:
    """Return the bytes that f_bavail says are free, once the filesystem is at rest."""
    at_rest(mount_point)
    state = os.statvfs(mount_point)
    return state.f_bavail * state.f_frsize


def at_rest(directory: Path) -> None:
    """Wait until a filesystem does nothing more by itself to its files and its space.

    All is on the disk then, what was removed is free, and no file has storage beyond
    its end that was taken for writes to come: sooner or later it would lose it.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + 30  # others may write there, as in /dev/shm
        before = None
        while True:
            ctypes.CDLL(None).syncfs(fd)
            with contextlib.suppress(OSError):  # it isn't xfs, or not root's turn
                fcntl.ioctl(fd, XFS_IOC_FREE_EOFBLOCKS, XFS_EOFBLOCKS)
            now = os.fstatvfs(fd).f_bfree
            if now == before or time.monotonic() > deadline:
                return
            before = now
            time.sleep(0.05)
    finally:
        os.close(fd)


def leave_free(mount_point: Path, free: int) -> None:
    """Fill a filesystem by fallocate(2) until ``free`` bytes are left, to the block."""
    ballast = mount_point / "ballast"
    ballast.touch()
    block = os.statvfs(mount_point).f_frsize
    length = (available(mount_point) - free) // block * block
    while length >= block:
        try:
            run(
                "fallocate",
                *("--offset", str(ballast.stat().st_size)),
                *("--length", str(length)),
                ballast,
            )
        except subprocess.CalledProcessError as error:
            if "No space left" not in error.stderr:
                raise
            # Its own extent tree takes blocks too; ext4 has kept what it got.
            length //= 2
        excess = available(mount_point) - free
        length = min(length, excess) // block * block


def run(*command: str | Path) -> None:
    """Run a command; its CalledProcessError shows what it said on stderr."""
    # The C locale, because HOST_REFUSALS quotes messages.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        subprocess.run(
            command, capture_output=True, check=True, text=True, env=environment
        )
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise
