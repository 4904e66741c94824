"""Steps that create the disk: an empty image, its metadata and its inode flags."""

from __future__ import annotations

import os
from typing import ClassVar

from allocpolicy.contract.facts import BaseImage
from allocpolicy.contract.plan import Step, Target
from allocpolicy.errors import Unsupported
from allocpolicy.overriding import override
from allocpolicy.progress import Progress, counted
from allocpolicy.qcow2 import writer
from allocpolicy.qcow2.geometry import DEFAULT_CLUSTER_SIZE, Geometry, geometry
from allocpolicy.qcow2.writer import Backing
from allocpolicy.record import dataclass
from allocpolicy.storage import extent_size, inode_flags, longest
from allocpolicy.storage.failure import own_work
from allocpolicy.storage.inode_flags import InodeFlag
from allocpolicy.wording import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateQcow2(Step):
    """Afterwards the target is an empty qcow2; with ``backing``, an overlay on it.

    ``mapped``: every cluster is mapped to storage that is still a hole, so that the
    guest's first write changes no table. With a backing file the clusters then have
    subclusters (extended L2 entries, QEMU 5.2). An image that isn't mapped is as
    long as one that is written in full, where the file can be: a write that doesn't
    change the file's length costs less.
    """

    virtual_size: int  #: the bytes that the guest sees
    #: bytes of a cluster: a power of two, 512 to 2 MiB
    cluster_size: int = DEFAULT_CLUSTER_SIZE
    backing: BaseImage | None = None  #: the image below; None: there is none
    mapped: bool = False  #: map all clusters, in one run from ``data_offset``

    @override
    def describe(self) -> str:
        size, clusters = format_size(self.virtual_size), self.cluster_size >> 10
        text = f"create a qcow2 of {size}, {clusters} KiB clusters"
        if self.mapped:
            text += ", all mapped"
        if self.backing:
            text += f", backing file {self.backing.path} ({self.backing.format})"
        return text

    @property
    def carries(self) -> BaseImage | None:
        """Return the image that the guest reads afterwards."""
        return self.backing

    @property
    def recipe(self) -> str | None:
        """Return what it makes if all of it is mapped.

        An overlay names a path. Others are made at once, and may have another length
        where files can't be as long.
        """
        if self.backing is not None or not self.mapped:
            return None
        return f"mapped, {self.virtual_size} bytes, clusters of {self.cluster_size}"

    @property
    def full_size(self) -> int:
        """Return the file's bytes once the guest has written all of the disk."""
        return self._geometry.file_size

    @property
    def data_offset(self) -> int:
        """Return where the data of a ``mapped`` image begins, in bytes."""
        return self._geometry.data_offset

    @property
    def _length(self) -> int:
        return self.full_size if self.mapped else 0

    @property
    def _geometry(self) -> Geometry:
        return geometry(
            self.virtual_size,
            cluster_size=self.cluster_size,
            extended_l2=self.mapped and self.backing is not None,
        )

    def check(self, target: Target) -> None:
        """Raise what would prevent it because of the file's length.

        :raises Unsupported: when the file can't become so long.
        """
        longest.refuse_longer(target.fd, self._length, path=target.directory)

    @override
    def run(self, target: Target, progress: Progress) -> None:
        image = self._geometry
        with own_work(
            fd=target.fd,
            path=target.directory,
            needed=image.metadata_bytes,
            action="write metadata",
        ):
            # Clusters that are allocated later may be freed: each has storage alone.
            extent_size.hint(
                target.fd, size=extent_size.HINT if self.mapped else self.cluster_size
            )
            self._write(target.fd, image, progress)

    def _write(self, fd: int, image: Geometry, progress: Progress) -> None:
        """Write the metadata, the header last."""
        backing = None
        if self.backing:
            backing = Backing(path=self.backing.path, format=self.backing.format)
        if not self.mapped:
            writer.write_unmapped(fd, image, backing=backing)
            longest.lengthen(fd, self.full_size)
            return
        total = image.metadata_bytes
        advance = counted(progress, total=total)
        writer.write_mapped(fd, image, backing=backing, advance=advance)
        progress(done=total, total=total)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRaw(Step):
    """Afterwards the target is a raw image of ``virtual_size`` bytes, one hole."""

    carries: ClassVar[None] = None

    virtual_size: int  #: the bytes that the guest sees

    @property
    def recipe(self) -> str:
        """Return what it makes."""
        return f"{self.virtual_size} bytes"

    @property
    def full_size(self) -> int:
        """Return the file's bytes once the guest has written all of the disk."""
        return self.virtual_size

    @property
    def data_offset(self) -> int:
        """Return where the data begins, in bytes."""
        return 0

    @override
    def describe(self) -> str:
        return f"create a sparse file of {format_size(self.virtual_size)}"

    def check(self, target: Target) -> None:
        """Raise what would prevent it because of the file's length.

        :raises Unsupported: when the file can't become so long.
        """
        longest.refuse_longer(target.fd, self.virtual_size, path=target.directory)

    @override
    def run(self, target: Target, progress: Progress) -> None:
        with own_work(
            fd=target.fd, path=target.directory, needed=0, action=self.describe()
        ):
            extent_size.hint(target.fd)
            os.ftruncate(target.fd, self.virtual_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNocow(Step):
    """Afterwards overwriting the file's blocks allocates nothing (btrfs NOCOW).

    btrfs accepts the inode flag only while the file is empty, and not compressed.
    ``inherited``: a compression that the file has is its directory's, and ends.
    Otherwise it is that of the disk that the file replaces: unsupported.
    """

    #: a compression that the file has is its directory's, and ends; otherwise it is
    #: refused
    inherited: bool = False

    @override
    def describe(self) -> str:
        return "make the empty file NOCOW"

    @override
    def run(self, target: Target, progress: Progress) -> None:
        if not self.inherited and inode_flags.has(target.fd, InodeFlag.COMPR):
            reason = "a compressed file can't be NOCOW; use chattr -c on the disk first"
            raise Unsupported(target.directory, reason)
        with own_work(fd=target.fd, path=target.directory, needed=0, action="NOCOW"):
            inode_flags.remove(target.fd, InodeFlag.COMPR)
            inode_flags.add(target.fd, InodeFlag.NOCOW)


def mapped_data_offset(
    virtual_size: int, *, cluster_size: int, extended_l2: bool = False
) -> int:
    """Return where the data of a mapped `CreateQcow2` begins, in bytes."""
    whole = geometry(virtual_size, cluster_size=cluster_size, extended_l2=extended_l2)
    return whole.data_offset
