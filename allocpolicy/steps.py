"""The steps that strategies build plans of; anybody's step is as good as these."""

from __future__ import annotations

import os
from dataclasses import dataclass

from allocpolicy import qemu_img
from allocpolicy.errors import format_size
from allocpolicy.facts import BaseImage, DiskFormat
from allocpolicy.plan import Progress, Target
from allocpolicy.storage import fallocate, inode_flags
from allocpolicy.storage.failure import explained
from allocpolicy.storage.inode_flags import InodeFlag


def _image(target: Target, format: DiskFormat) -> qemu_img.Image:
    return qemu_img.Image(fd=target.fd, format=format, path=target.directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateQcow2:
    """Afterwards the target is an empty qcow2; with ``backing``, an overlay on it.

    ``preallocation`` is QEMU's: off, or metadata (every cluster is mapped; without a
    backing file only).
    """

    virtual_size: int
    cluster_size: int = 64 << 10
    backing: BaseImage | None = None
    preallocation: str = "off"

    def describe(self) -> str:
        """Return one line for people."""
        size, clusters = format_size(self.virtual_size), self.cluster_size >> 10
        text = f"create a qcow2 of {size}, {clusters} KiB clusters"
        if self.preallocation != "off":
            text += f", preallocation={self.preallocation}"
        if self.backing:
            text += f", backing file {self.backing.path} ({self.backing.format})"
        return text

    def run(self, target: Target, progress: Progress) -> None:
        """Write the image's metadata."""
        options = {
            "compat": "1.1",
            "cluster_size": str(self.cluster_size),
            "preallocation": self.preallocation,
        }
        if self.backing:
            options["backing_file"] = str(self.backing.path)
            options["backing_fmt"] = self.backing.format
        image = _image(target, DiskFormat.QCOW2)
        qemu_img.create(image, virtual_size=self.virtual_size, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRaw:
    """Afterwards the target is a raw image of ``virtual_size`` bytes, all hole."""

    virtual_size: int

    def describe(self) -> str:
        """Return one line for people."""
        return f"create a sparse raw image of {format_size(self.virtual_size)}"

    def run(self, target: Target, progress: Progress) -> None:
        """Set the file's size."""
        with explained(
            fd=target.fd, path=target.directory, needed=0, action=self.describe()
        ):
            os.ftruncate(target.fd, self.virtual_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Afterwards ``[0, length)`` of the file has storage of its own.

    fallocate(2), mode 0: data stays, holes become unwritten extents, a shorter file
    grows.
    """

    length: int

    def describe(self) -> str:
        """Return one line for people."""
        return f"reserve {format_size(self.length)} with fallocate"

    def run(self, target: Target, progress: Progress) -> None:
        """Reserve; ENOSPC is known here, before any byte is copied."""
        with explained(
            fd=target.fd, path=target.directory, needed=self.length, action="fallocate"
        ):
            fallocate.allocate(target.fd, offset=0, length=self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNocow:
    """Afterwards overwriting the file's blocks allocates nothing (btrfs NOCOW)."""

    def describe(self) -> str:
        """Return one line for people."""
        return "make the empty file NOCOW"

    def run(self, target: Target, progress: Progress) -> None:
        """Set the inode flag, which btrfs takes only while the file is empty."""
        with explained(fd=target.fd, path=target.directory, needed=0, action="NOCOW"):
            inode_flags.add(target.fd, InodeFlag.NOCOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBase:
    """Afterwards the disk's first bytes are those of the base image.

    The disk must be all zero; its reservation and its mapping stay.
    """

    base: BaseImage
    format: DiskFormat

    def describe(self) -> str:
        """Return one line for people."""
        data = format_size(self.base.data_bytes)
        return f"copy the data of {self.base.path} ({self.base.format}, up to {data})"

    def run(self, target: Target, progress: Progress) -> None:
        """Copy what is not zero."""
        base = self.base
        source = qemu_img.Image(fd=base.fd, format=base.format, path=base.path)
        qemu_img.copy_into(source, _image(target, self.format), progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillHoles:
    """Afterwards every byte of ``[0, length)`` was written; what was a hole is zero."""

    length: int

    def describe(self) -> str:
        """Return one line for people."""
        return f"write zeroes to the holes of the first {format_size(self.length)}"

    def run(self, target: Target, progress: Progress) -> None:
        """Write zeroes where the file has holes or unwritten extents."""
        fd = target.fd
        if os.fstat(fd).st_size < self.length:
            os.ftruncate(fd, self.length)
        with explained(
            fd=fd, path=target.directory, needed=self.length, action="write zeroes"
        ):
            os.fsync(fd)  # dirty pages then count as data (see fallocate.holes)
            done = 0

            def advance(written: int) -> None:
                nonlocal done
                done += written
                progress(done=done, total=self.length)

            for offset, length in fallocate.holes(fd):
                fallocate.write_zeroes(
                    fd, offset=offset, length=length, advance=advance
                )
