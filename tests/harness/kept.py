"""What disks are, and what guests read of them: kept, to be compared later."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from tests.harness.images import qemu_img, same_content

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
