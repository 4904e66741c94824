"""The block nodes through which a QEMU program opens an image that we have open.

Each image is given as explicit nodes (QEMU's qapi/block-core.json, BlockdevOptions) on
``/proc/self/fd/N`` of an inherited descriptor: the driver of the format, on the driver
of files, with no backing file whatever the header says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.record import dataclass

# Otherwise QEMU computes the size from the geometry, which is less, unless it knows the
# program that made the image (vpc_open of its block/vpc.c).
_OPTIONS = {"vpc": {"force_size_calc": "current_size"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An open image file, its explicit format, and its path for messages.

    ``part`` is the (offset, length) of the guest's bytes that are meant; None for all.
    ``overlay`` is an open qcow2 of the file's size, which holds what was written in the
    file's place. ``others`` are open files that the image names by ``/proc/self/fd/N``.
    """

    fd: int
    format: str
    path: Path
    part: tuple[int, int] | None = None
    overlay: int | None = None
    others: tuple[int, ...] = ()

    @property
    def source(self) -> str:
        """Return the block nodes through which qemu-img reads it, as a file name."""
        return self._nodes({"read-only": True})

    @property
    def target(self) -> str:
        """Return the block nodes through which qemu-img writes, as a file name."""
        return self._nodes({})

    def _nodes(self, common: dict[str, object]) -> str:
        """Return the nodes; only in JSON is there a null, for no backing file."""
        file = {**self._file(common), **common}
        nodes = {"driver": self.format, "file": file, **common, "backing": None}
        nodes |= _OPTIONS.get(self.format, {})
        if self.part:
            offset, size = self.part
            nodes = {"driver": "raw", "offset": offset, "size": size, "file": nodes}
        return "json:" + json.dumps({**nodes, **common})

    def _file(self, common: dict[str, object]) -> dict[str, object]:
        if self.overlay is None:
            return file_node(self.fd)
        below = {"driver": "raw", "file": file_node(self.fd, {"read-only": True})}
        above = file_node(self.overlay, common)
        return {"driver": "qcow2", "file": above, "backing": below}

    @property
    def fds(self) -> list[int]:
        """Return the descriptors that qemu-img inherits."""
        overlay = [] if self.overlay is None else [self.overlay]
        return [self.fd, *overlay, *self.others]


def file_node(fd: int, common: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the node of an inherited descriptor."""
    return {"driver": "file", "filename": f"/proc/self/fd/{fd}", **(common or {})}


def served(socket: int, *, backing: dict[str, object] | None) -> str:
    """Return the block nodes of a qcow2 that an NBD server gives, as a file name."""
    file = {"driver": "nbd", "server": {"type": "fd", "str": str(socket)}}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": backing})
