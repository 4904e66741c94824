"""The steps that strategies build plans of; anybody's step is as good as these."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from allocpolicy import base_image, qemu_img
from allocpolicy.errors import Unsupported, format_size
from allocpolicy.facts import BaseImage, DiskFormat
from allocpolicy.plan import Progress, Target
from allocpolicy.qcow2 import writer
from allocpolicy.qcow2.content import Kind
from allocpolicy.qcow2.geometry import DEFAULT_CLUSTER_SIZE, geometry
from allocpolicy.qcow2.writer import Backing
from allocpolicy.storage import copy, extent_size, fallocate, inode_flags, zeroes
from allocpolicy.storage.copy import Run
from allocpolicy.storage.failure import explained
from allocpolicy.storage.inode_flags import InodeFlag

_RESERVED_CHUNK = 1 << 30


class Sharing(enum.StrEnum):
    """Whether a copy may share the base image's blocks."""

    NEVER = "never"  # every block is the disk's own
    ALLOWED = "allowed"  # if the kernel likes (copy_file_range)
    SHARED = "shared"  # all of them, by reflink: the facts say that it can


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateQcow2:
    """Afterwards the target is an empty qcow2; with ``backing``, an overlay on it.

    ``mapped``: every cluster is mapped to storage that is still a hole, so that the
    guest's first write changes no table. With a backing file the clusters then have
    subclusters (extended L2 entries, QEMU 5.2).
    """

    virtual_size: int
    cluster_size: int = DEFAULT_CLUSTER_SIZE
    backing: BaseImage | None = None
    mapped: bool = False

    def describe(self) -> str:
        """Return one line for people."""
        size, clusters = format_size(self.virtual_size), self.cluster_size >> 10
        text = f"create a qcow2 of {size}, {clusters} KiB clusters"
        if self.mapped:
            text += ", all mapped"
        if self.backing:
            text += f", backing file {self.backing.path} ({self.backing.format})"
        return text

    def run(self, target: Target, progress: Progress) -> None:
        """Write the image's metadata, the header last."""
        backing = None
        if self.backing:
            backing = Backing(path=self.backing.path, format=self.backing.format)
        whole = geometry(
            self.virtual_size,
            cluster_size=self.cluster_size,
            extended_l2=self.mapped and backing is not None,
        )
        with explained(
            fd=target.fd,
            path=target.directory,
            needed=whole.metadata_bytes,
            action="write metadata",
        ):
            extent_size.hint(target.fd)
            if self.mapped:
                advance = counted(progress, total=whole.metadata_bytes)
                writer.write_mapped(target.fd, whole, backing=backing, advance=advance)
                progress(done=whole.metadata_bytes, total=whole.metadata_bytes)
            else:
                writer.write_unmapped(target.fd, whole, backing=backing)


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
            extent_size.hint(target.fd)
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
            reserve(target.fd, length=self.length, progress=progress)


class _Allocate(Protocol):
    def __call__(self, fd: int, /, *, offset: int, length: int) -> None: ...


def reserve(
    fd: int,
    *,
    length: int,
    progress: Progress,
    allocate: _Allocate = fallocate.allocate,
) -> None:
    """Allocate ``[0, length)`` in chunks, between which a VM's writes go on.

    :raises OSError: as fallocate(2); what was allocated stays.
    """
    for offset in range(0, length, _RESERVED_CHUNK):
        progress(done=offset, total=length)
        allocate(fd, offset=offset, length=min(_RESERVED_CHUNK, length - offset))
    progress(done=length, total=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNocow:
    """Afterwards overwriting the file's blocks allocates nothing (btrfs NOCOW)."""

    def describe(self) -> str:
        """Return one line for people."""
        return "make the empty file NOCOW"

    def run(self, target: Target, progress: Progress) -> None:
        """Set the inode flag, which btrfs takes only while the file is empty.

        :raises Unsupported: when the file keeps the compression of the one before it.
        """
        if inode_flags.has(target.fd, InodeFlag.COMPR):
            reason = "a compressed file can't be NOCOW; use chattr -c on the disk first"
            raise Unsupported(target.directory, reason)
        with explained(fd=target.fd, path=target.directory, needed=0, action="NOCOW"):
            inode_flags.add(target.fd, InodeFlag.NOCOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBase:
    """Afterwards the disk's first bytes are those of the base image.

    The disk must be all zero, and a qcow2 all mapped in one run that begins at
    ``data_offset`` (`mapped_data_offset`; 0 for raw); its reservation and its mapping
    stay.
    """

    base: BaseImage
    format: DiskFormat
    data_offset: int = 0
    sharing: Sharing = Sharing.NEVER

    def describe(self) -> str:
        """Return one line for people."""
        data = format_size(self.base.data_bytes)
        verb = "share" if self._shares else "copy"
        return f"{verb} the data of {self.base.path} ({self.base.format}, up to {data})"

    @property
    def _shares(self) -> bool:
        return self.sharing is Sharing.SHARED and self.base.plain

    def run(self, target: Target, progress: Progress) -> None:
        """Share or copy what is data."""
        base = self.base
        if not base.plain and not base.leased:  # compressed, or with subclusters
            source = qemu_img.Image(fd=base.fd, format=base.format, path=base.path)
            disk = qemu_img.Image(
                fd=target.fd, format=self.format, path=target.directory
            )
            qemu_img.copy_into(source, disk, progress=progress)
            return
        advance = counted(progress, total=base.data_bytes)
        with explained(
            fd=target.fd,
            path=target.directory,
            needed=base.data_bytes,
            action="copy the base image",
        ):
            for layer, size in zip(base.layers, base.seen_sizes, strict=True):
                self._copy_layer(layer, target.fd, size=size, advance=advance)
        progress(done=base.data_bytes, total=base.data_bytes)

    def _copy_layer(
        self, layer: BaseImage, target: int, *, size: int, advance: copy.Advance
    ) -> None:
        """Put an image's own content over what the images below it have put there.

        :param size: how many bytes of it are seen through those above it.
        """
        runs = (
            Run(
                source=run.host_offset,
                target=self.data_offset + run.offset,
                length=run.length,
            )
            for run in base_image.runs(layer, virtual_size=size)
            if run.kind is Kind.DATA
        )
        if self._shares:
            copy.share_runs(
                layer.fd,
                target,
                runs=runs,
                block_size=os.fstatvfs(target).f_bsize,
                advance=advance,
            )
        else:
            copy.copy_runs(
                layer.fd,
                target,
                runs=runs,
                may_share=self.sharing is Sharing.ALLOWED,
                advance=advance,
            )
        if layer.below is not None or not layer.plain:
            self._place_others(layer, target, size=size, advance=advance)

    def _place_others(
        self, layer: BaseImage, target: int, *, size: int, advance: copy.Advance
    ) -> None:
        """Put zeroes and compressed clusters in their place, as data is by now."""
        inflate = base_image.inflater(layer)
        for run in base_image.runs(layer, virtual_size=size):
            place = self.data_offset + run.offset
            if run.kind is Kind.COMPRESSED:
                copy.write(target, inflate(run), offset=place)
                advance(run.length)
            elif run.kind is Kind.ZERO and layer.below is not None:
                kept = self.sharing is Sharing.NEVER
                zeroes.clear(target, offset=place, length=run.length, kept=kept)


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
        with explained(
            fd=fd, path=target.directory, needed=self.length, action="write zeroes"
        ):
            if os.fstat(fd).st_size < self.length:
                os.ftruncate(fd, self.length)
            advance = counted(progress, total=self.length)
            zeroes.fill(fd, length=self.length, advance=advance)
        progress(done=self.length, total=self.length)


def mapped_data_offset(
    virtual_size: int, *, cluster_size: int, extended_l2: bool = False
) -> int:
    """Return where the data of a mapped `CreateQcow2` begins, in bytes."""
    whole = geometry(virtual_size, cluster_size=cluster_size, extended_l2=extended_l2)
    return whole.data_offset


def counted(progress: Progress, *, total: int) -> Callable[[int], None]:
    """Return a function that adds up the bytes it is told, and reports the sum."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done=min(done, total), total=total)

    return advance
