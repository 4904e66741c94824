"""A directory of disks as Nova's: each an overlay on a base image in `_base`."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

from tests.harness.images import MIB, qemu_img, qemu_io, same_content
from tests.harness.machines import DomainDisk

SIZE = 64 * MIB
STAMP = "user.allocpolicy"
BLOCK = 4096  # of the filesystems


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a file is, with its content and without its times."""

    inode: int
    digest: str
    size: int
    blocks: int
    mode: int
    owner: tuple[int, int]
    attributes: tuple[tuple[str, bytes], ...]

    def is_but_for_its_stamp(self, other: Look) -> bool:
        """Return whether it is the other, whose stamp may take a block of its own."""
        return (
            self._without_stamp() == other._without_stamp()
            and abs(self.blocks - other.blocks) <= BLOCK // 512
        )

    def _without_stamp(self) -> Look:
        kept = tuple(pair for pair in self.attributes if pair[0] != STAMP)
        return replace(self, attributes=kept, blocks=0)


def look(path: Path) -> Look:
    """Return what a file is once all of it is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        found = os.fstat(file.fileno())
    return Look(
        inode=found.st_ino,
        digest=digest,
        size=found.st_size,
        blocks=found.st_blocks,
        mode=found.st_mode,
        owner=(found.st_uid, found.st_gid),
        attributes=tuple(
            (name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """The directory of the instances' disks."""

    directory: Path

    @property
    def bases(self) -> Path:
        """The directory of the base images."""
        path = self.directory / "_base"
        path.mkdir(exist_ok=True)
        return path

    def base(self, *, inside: Path | None = None, data: int = 3 * MIB) -> Path:
        """Make a raw base image of 16 MiB and more that has some data."""
        path = (inside or self.bases) / "base"
        with path.open("wb") as file:
            file.write(random.Random(4).randbytes(data))
            file.truncate(data + 13 * MIB)
        return path

    def overlay(
        self, name: str = "disk", *, base: Path, size: int = SIZE, target: str = "vda"
    ) -> DomainDisk:
        """Make an instance's disk; its guest has written to it."""
        path = self.directory / name
        backing = ("-F", "raw", "-b", base)
        qemu_img("create", "-q", "-f", "qcow2", *backing, path, size)
        writes = ("write -P 1 1M 70k", "write -P 2 40M 1M", "write -z 2M 64k")
        qemu_io(path, *writes, format="qcow2")
        return DomainDisk(path=path, target=target)

    def names(self) -> list[str]:
        """Return the names of all files, hidden ones too."""
        return sorted(
            str(path.relative_to(self.directory))
            for path in self.directory.rglob("*")
            if not path.is_dir()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a guest reads of a disk, kept to be compared."""

    raw: Path

    def is_of(self, disk: Path, *, format: str = "qcow2") -> bool:
        """Return whether a guest reads the same of this disk."""
        return same_content(disk, self.raw, formats=(format, "raw"))


def content(disk: Path, *, directory: Path, format: str = "qcow2") -> Content:
    """Return what a guest reads of a disk; it is kept in the directory."""
    raw = directory / f"{disk.name}.content"
    qemu_img("convert", "-U", "-f", format, "-O", "raw", disk, raw)
    return Content(raw=raw)
