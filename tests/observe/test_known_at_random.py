"""What is known of images of any kind is what reading them tells, whatever happened.

A differential test, drawn by seed: each change of an image's file, by any way there is
to make one, is followed by a look with all that was known, and by one without.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allocpolicy.observe.known import Knowledge
from tests.harness.images import qemu_img
from tests.harness.qcow2_disks import MiB, create, write
from tests.observe import test_known
from tests.observe.test_known import (
    forget_pages,
    is_known,
    knows,
    looked,
    read,
    reflinked,
    settled,
)

memory, settled_early = test_known.memory, test_known.settled_early
_SIZE = 48 * MiB
_PAGE = 4096
_FICLONERANGE = 0x4020940D
_KEEP_SIZE, _PUNCH, _COLLAPSE, _ZERO, _INSERT = 1, 2, 8, 16, 32
_libc = ctypes.CDLL(None, use_errno=True)

KINDS: dict[str, tuple[str, ...]] = {
    "v2": ("compat=0.10",),
    "v3": (),
    "512": ("cluster_size=512",),
    "2M": ("cluster_size=2M",),
    "lazy": ("lazy_refcounts=on",),
    "extended": ("extended_l2=on",),
    "mapped": ("preallocation=metadata",),
    "mapped-4K": ("preallocation=metadata", "cluster_size=4K"),
    "mapped-extended": ("preallocation=metadata", "extended_l2=on"),
    "falloc": ("preallocation=falloc",),
    "bits1": ("refcount_bits=1",),
    "bits64": ("refcount_bits=64",),
}


def images(directory: Path) -> Iterator[Path]:
    """Yield an image of each kind, with data in it."""
    for name, options in KINDS.items():
        disk = create(directory / name, _SIZE, *options)
        write(disk, "write 0 1M", "write -z 4M 1M", "write 20M 64k", "discard 512k 64k")
        yield disk
    for name in ("snapshots", "bitmaps"):
        disk = create(directory / name, _SIZE)
        write(disk, "write 0 1M")
        if name == "snapshots":
            qemu_img("snapshot", "-c", "before", disk)
        else:
            qemu_img("bitmap", "--add", disk, "changes")
        write(disk, "write 512k 1M")
        yield disk
    compressed = directory / "compressed"
    qemu_img("convert", "-c", "-O", "qcow2", directory / "v3", compressed)
    yield compressed
    external = directory / "external"
    create(external, _SIZE, f"data_file={directory / 'data.raw'}", "data_file_raw=on")
    write(external, "write 1M 64k")
    yield external
    overlay = directory / "overlay"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", compressed, overlay)
    write(overlay, "write 3M 192k")
    yield overlay
    grown = create(directory / "grown", _SIZE // 2, "preallocation=metadata")
    qemu_img("resize", "-q", "--preallocation=metadata", grown, str(_SIZE))
    yield grown


@contextlib.contextmanager
def opened(disk: Path, flags: int = 0) -> Iterator[int]:
    fd = os.open(disk, os.O_RDWR | flags)
    try:
        yield fd
    finally:
        os.close(fd)


def flipped(fd: int, at: int, chance: random.Random) -> bytes:
    (byte,) = os.pread(fd, 1, at) or b"\0"
    return bytes([byte ^ 1 << chance.randrange(8)])


def by_write(disk: Path, at: int, chance: random.Random) -> None:
    with opened(disk) as fd:
        os.pwrite(fd, flipped(fd, at, chance), at)


def with_old_dates(disk: Path, at: int, chance: random.Random) -> None:
    status = disk.stat()
    by_write(disk, at, chance)
    os.utime(disk, ns=(status.st_atime_ns, status.st_mtime_ns))


def by_mapping(disk: Path, at: int, chance: random.Random) -> None:
    with opened(disk) as fd, mmap.mmap(fd, 0) as content:
        content[at] ^= 1 << chance.randrange(8)


def directly(disk: Path, at: int, chance: random.Random) -> None:
    start = at // _PAGE * _PAGE
    with opened(disk, os.O_DIRECT) as fd, mmap.mmap(-1, _PAGE) as page:
        if os.preadv(fd, [page], start) == _PAGE:
            page[at - start] ^= 1 << chance.randrange(8)
            os.pwritev(fd, [page], start)


def _other(disk: Path, at: int, chance: random.Random) -> Path:
    """Make a copy of the file with a bit flipped."""
    other = disk.with_name("other")
    shutil.copyfile(disk, other)
    by_write(other, at, chance)
    return other


def by_copy_file_range(disk: Path, at: int, chance: random.Random) -> None:
    other = _other(disk, at, chance)
    start = at // _PAGE * _PAGE
    with opened(other) as source, opened(disk) as fd:
        os.copy_file_range(source, fd, _PAGE, start, start)
    other.unlink()


def by_reflink(disk: Path, at: int, chance: random.Random) -> None:
    other = _other(disk, at, chance)
    start = at // _PAGE * _PAGE
    length = min(_PAGE, disk.stat().st_size - start)
    with opened(other) as source, opened(disk) as fd:
        os.fsync(source)
        with contextlib.suppress(OSError):  # no reflink here, or an odd end
            fcntl.ioctl(
                fd, _FICLONERANGE, struct.pack("=qQQQ", source, start, length, start)
            )
    other.unlink()


def _fallocate(mode: int) -> Callable[[Path, int, random.Random], None]:
    def change(disk: Path, at: int, _: random.Random) -> None:
        start = at // _PAGE * _PAGE
        with opened(disk) as fd:  # one of those that the filesystem may lack
            _libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(_PAGE))

    return change


def cut_and_regrown(disk: Path, at: int, _: random.Random) -> None:
    size = disk.stat().st_size
    os.truncate(disk, at)
    os.truncate(disk, size)


def cut(disk: Path, at: int, _: random.Random) -> None:
    os.truncate(disk, at)


def longer(disk: Path, at: int, _: random.Random) -> None:
    os.truncate(disk, disk.stat().st_size + at)


def replaced(disk: Path, at: int, chance: random.Random) -> None:
    other = _other(disk, at, chance)
    shutil.copystat(disk, other)
    other.rename(disk)


def made_anew(disk: Path, at: int, chance: random.Random) -> None:
    """Another file of the name, often with the inode number of the old one."""
    content, status = bytearray(disk.read_bytes()), disk.stat()
    content[at] ^= 1 << chance.randrange(8)
    disk.unlink()
    disk.write_bytes(content)
    os.utime(disk, ns=(status.st_atime_ns, status.st_mtime_ns))


def by_guest(disk: Path, at: int, chance: random.Random) -> None:
    where = chance.randrange(_SIZE // 4096) * 4096
    verb = chance.choice(("write", "write -z", "write -zu", "discard"))
    command = ["qemu-io", "-f", "qcow2", "-d", "unmap"]
    command += ["-c", f"{verb} {where} {chance.choice((4096, 65536))}", str(disk)]
    subprocess.run(
        command, check=False, capture_output=True
    )  # a broken image refuses it


def by_qemu_img(disk: Path, at: int, chance: random.Random) -> None:
    commands = (
        ["snapshot", "-c", "one"],
        ["bitmap", "--add", "--persistent", str(disk), "b"],
        ["amend", "-f", "qcow2", "-o", "lazy_refcounts=on"],
        ["check", "-q", "-r", "all"],
    )
    command = chance.choice(commands)
    words = [word for word in command if word != "--persistent"]
    target = [] if str(disk) in words else [str(disk)]
    subprocess.run(["qemu-img", *words, *target], check=False, capture_output=True)


WAYS = (
    *(by_write, with_old_dates, by_mapping, directly, by_copy_file_range, by_reflink),
    *map(_fallocate, (_PUNCH | _KEEP_SIZE, _COLLAPSE, _INSERT, _ZERO)),
    *(cut, cut_and_regrown, longer, replaced, made_anew, by_guest, by_qemu_img),
)


def somewhere(disk: Path, chance: random.Random) -> int:
    """Return an offset in what holds metadata, or at its edges, in most cases."""
    size = disk.stat().st_size
    kind = chance.random()
    if kind < 0.2:
        at = chance.randrange(104)
    elif kind < 0.6:
        at = chance.randrange(6) * 65536 + chance.randrange(512)
    elif kind < 0.8:
        at = chance.randrange(max(1, min(size, 6 * MiB)))
    else:
        at = chance.randrange(max(1, size))
    return min(at, max(0, size - 1))


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
@pytest.mark.parametrize("seed", [1])
def test_any_change_of_any_image_is_seen(directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    made = [*images(directory)]
    for _ in range(2):
        settled(*made)
        for disk in made:
            before = read(disk)
            assert knows(disk) == before
            assert is_known(disk) == (not isinstance(before, str)), disk.name
        for disk in made:
            for _ in range(chance.randrange(3)):
                if not disk.stat().st_size:
                    break
                way, at = chance.choice(WAYS), somewhere(disk, chance)
                told = (seed, disk.name, way.__name__, at)
                way(disk, at, chance)
                assert knows(disk) == read(disk), told
                assert looked(disk, Knowledge()) == looked(disk, None), told


@pytest.mark.filesystems("xfs", "btrfs")
@pytest.mark.parametrize("seed", [1])
def test_any_change_of_a_clone_or_its_original_is_seen(
    directory: Path, seed: int
) -> None:
    chance = random.Random(seed)
    made = [*images(directory)]
    clones = []
    for disk in made:
        disk.chmod(0o444)
        clones.append(reflinked(disk, directory / f"{disk.name}-clone"))
        clones[-1].chmod(0o644)
    for disk in made:
        forget_pages(disk)
    settled(*made)
    knowledge = Knowledge()
    for disk in made:
        looked(disk, knowledge)
        knows(disk)
    for round_ in range(4):
        for clone in (*clones, *(made if round_ == 2 else ())):
            if not clone.stat().st_size:
                continue
            way, at = chance.choice(WAYS), somewhere(clone, chance)
            told = (seed, round_, clone.name, way.__name__, at)
            way(clone, at, chance)
            for what in (knowledge, Knowledge()):
                assert looked(clone, what) == looked(clone, None), told
