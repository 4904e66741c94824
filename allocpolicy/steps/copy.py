"""The step that fills the disk with its base image's data: shared, or copied."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass

from allocpolicy import qemu_img
from allocpolicy.contract.facts import BaseImage, DiskFormat
from allocpolicy.contract.plan import Target
from allocpolicy.images import base_image
from allocpolicy.progress import Advance, Progress, counted
from allocpolicy.qcow2.content import Kind
from allocpolicy.storage import copy, reflink, zeroes
from allocpolicy.storage.copy import Run
from allocpolicy.storage.failure import explained
from allocpolicy.wording import format_size


class Sharing(enum.StrEnum):
    """Whether a copy may share the base image's blocks."""

    NEVER = "never"  # every block is the disk's own
    ALLOWED = "allowed"  # if the kernel likes (copy_file_range)
    SHARED = "shared"  # all of them, by reflink: the facts say that it can


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
        self, layer: BaseImage, target: int, *, size: int, advance: Advance
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
                advance=advance,
            )
        if layer.below is not None or not layer.plain:
            self._place_others(layer, target, size=size, advance=advance)

    def _place_others(
        self, layer: BaseImage, target: int, *, size: int, advance: Advance
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
