"""The step that fills the disk with its base image's data: shared, or copied."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator

from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.contract.plan import Step, Target
from allocpolicy.errors import ContractBroken
from allocpolicy.overriding import override
from allocpolicy.progress import Advance, Progress, counted
from allocpolicy.qcow2 import header, tables
from allocpolicy.record import dataclass
from allocpolicy.storage import copied, copy, read_lease, reflink, zeroes
from allocpolicy.storage.copy import Run
from allocpolicy.storage.failure import own_work
from allocpolicy.wording import format_size

_BLOCK = 4096  # bytes, of most filesystems that share blocks


class Sharing(enum.StrEnum):
    """Whether a copy may share the base image's blocks."""

    NEVER = "never"  #: every block is the disk's own
    ALLOWED = "allowed"  #: where copy_file_range(2) does
    SHARED = "shared"  #: all of them, by reflink, as the facts allow


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBase(Step):
    """Afterwards the disk's first bytes are those of the base image.

    The disk must read as zeroes, and a qcow2 must be mapped in one run that begins at
    ``data_offset`` (`CreateQcow2.data_offset`; 0 for raw); its reservation and its
    mapping stay.
    """

    base: BaseImage  #: the image to copy
    format: DiskFormat  #: the disk's format
    data_offset: int = 0  #: where the disk's data begins in its file, in bytes
    sharing: Sharing = Sharing.NEVER  #: whether blocks may be shared

    @property
    def carries(self) -> BaseImage:
        """Return the image that the guest reads afterwards."""
        return self.base

    @property
    def recipe(self) -> str | None:
        """Return where the data goes; what may be shared, another disk may have."""
        if self.sharing is Sharing.NEVER:
            return None
        return f"{self.format}, data from byte {self.data_offset}"

    @property
    def copied_bytes(self) -> int:
        """Return the most bytes that are copied, and not shared."""
        in_blocks = not any(map(_has_parts_of_blocks, self.base.layers))
        return 0 if self._shares and in_blocks else self.base.data_bytes

    @override
    def describe(self) -> str:
        base, data = self.base, format_size(self.base.data_bytes)
        verb = "share" if self._shares else "copy"
        if not base.leased:
            return f"{verb} the data of {base.path} ({base.format}, up to {data})"
        # The disk that is rewritten.
        if base.format is DiskFormat.RAW:
            return f"{verb} the file {base.path} block by block, up to {data}"
        others = len(base.layers) - 1
        below = f" and {others} below it" if others else ""
        return f"{verb} what the guest reads of {base.path}{below}, up to {data}"

    @property
    def _shares(self) -> bool:
        return self.sharing is Sharing.SHARED and self.base.plain

    @override
    def run(self, target: Target, progress: Progress) -> None:
        self._refuse_elsewhere(target)
        if self.base.plain or self.base.leased or not _is_held(self.base):
            self._copy_layers(target, progress)
        else:  # compressed, or with subclusters
            self._convert(target, progress)

    def _refuse_elsewhere(self, target: Target) -> None:
        """Check that the guest's first byte is where the copy begins.

        Elsewhere the disk would be whole, and its guest would read something else.

        :raises ContractBroken: when it isn't.
        """
        there, begins = DiskFormat.RAW, 0
        if os.pread(target.fd, len(header.MAGIC), 0) == header.MAGIC:
            there, begins = DiskFormat.QCOW2, _data_offset(target)
        if self.format is not there:
            raise ContractBroken(
                f"it copies into a {self.format} disk, which is {there}"
            )
        if self.data_offset != begins:
            raise ContractBroken(
                f"it copies to byte {self.data_offset} of the file, and the disk's data"
                f" {f'begins at {begins}' if begins else 'has no place there yet'}"
            )

    def _convert(self, target: Target, progress: Progress) -> None:
        from allocpolicy import qemu_img, qemu_nodes  # for what can't be shared

        base, directory = self.base, target.directory
        source = qemu_nodes.Image(fd=base.fd, format=base.format, path=base.path)
        disk = qemu_nodes.Image(fd=target.fd, format=self.format, path=directory)
        qemu_img.copy_into(source, disk, progress=progress)

    def _copy_layers(self, target: Target, progress: Progress) -> None:
        base = self.base
        advance = counted(progress, total=base.data_bytes)
        with own_work(
            fd=target.fd,
            path=target.directory,
            needed=base.data_bytes,
            action="copy the disk" if base.leased else "copy the base image",
        ):
            for layer, size in zip(base.layers, base.seen_sizes, strict=True):
                self._copy_layer(layer, target.fd, size=size, advance=advance)
        progress(done=base.data_bytes, total=base.data_bytes)

    def _copy_layer(
        self, layer: BaseImage, target: int, *, size: int, advance: Advance
    ) -> None:
        """Write an image's own content over that of the images below it.

        :param size: how many bytes of it show through the images above it.
        """
        runs = self._data_runs(layer, size=size)
        if self._shares:
            reflink.share_runs(
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
                over_zeroes=layer.below is None,
                advance=advance,
            )
        if layer.below is not None or not layer.plain:
            self._place_others(layer, target, size=size, advance=advance)

    def _data_runs(self, layer: BaseImage, *, size: int) -> Iterator[Run]:
        """Yield the data that an image's file holds as the guest reads it."""
        from allocpolicy.images import reading
        from allocpolicy.qcow2.content import Kind

        for run in reading.runs(layer, virtual_size=size):
            if run.kind is Kind.DATA:
                yield Run(
                    source=run.host_offset,
                    target=self.data_offset + run.offset,
                    length=run.length,
                )

    def _place_others(
        self, layer: BaseImage, target: int, *, size: int, advance: Advance
    ) -> None:
        """Write zeroes and compressed clusters in place, once the data is there."""
        from allocpolicy.images import reading
        from allocpolicy.qcow2.content import Kind

        inflate = reading.inflater(layer)
        for run in reading.runs(layer, virtual_size=size):
            place = self.data_offset + run.offset
            if run.kind is Kind.COMPRESSED:
                copied.count(run.length)
                copy.write(target, inflate(run), offset=place)
                advance(run.length)
            elif run.kind is Kind.ZERO and layer.below is not None:
                kept = self.sharing is Sharing.NEVER
                zeroes.clear(target, offset=place, length=run.length, kept=kept)


def _has_parts_of_blocks(image: BaseImage) -> bool:
    """Return whether clusters are smaller than a block, and so can't be shared."""
    return image.header is not None and image.header.cluster_size < _BLOCK


def _data_offset(target: Target) -> int:
    """Return where a qcow2 has its guest's first byte, 0 if nowhere."""
    l1_offset = header.read_header(target.fd, path=target.directory).l1_offset
    entry = l1_offset
    for _ in range(2):  # the first of the L1 table's, then of its first L2 table's
        entry = tables.read_entry(target.fd, entry) & tables.OFFSET if entry else 0
    return entry


def _is_held(base: BaseImage) -> bool:
    """Return whether the image stays as it was checked while qemu-img opens it.

    A header that changed could name any file as the external one of its data.
    """
    return read_lease.is_held(base.fd)
