"""Instances as Nova lays them out: a directory called by a UUID, beside ``_base``."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.harness import domains, images

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance's directory, and the disks in it."""

    path: Path

    @property
    def uuid(self) -> str:
        """The instance's UUID."""
        return self.path.name

    @property
    def base(self) -> Path:
        """The directory of base images."""
        return self.path.parent / "_base"

    def xml(self, *disks: str, metadata: str) -> bytes:
        """Return the XML of the domain."""
        return domains.domain(*disks, metadata=metadata, uuid=self.uuid)

    def image(self, *, size: int = 8 * MIB) -> Path:
        """Return a new base image, with data at both ends."""
        path = self.base / f"{len(list(self.base.iterdir()))}.raw"
        return images.make_whole(path, size=size)

    def overlay(
        self,
        name: str = "disk",
        *,
        base: Path | None = None,
        format: str = "raw",
        written: bool = True,
    ) -> Path:
        """Return a new overlay, which a guest wrote to."""
        path = self.path / name
        options = ("-b", base or self.image(), "-F", format)
        images.qemu_img("create", "-q", "-f", "qcow2", *options, path)
        if written:
            images.qemu_io(path, "write -P 7 2M 64k", format="qcow2")
        return path

    def raw(self, name: str = "disk", *, size: int = 8 * MIB) -> Path:
        """Return a new raw disk, all of it a hole."""
        path = self.path / name
        with path.open("xb") as file:
            file.truncate(size)
        return path

    def content(self, disk: Path) -> Path:
        """Return a copy of what the guest reads, as a raw file."""
        copy = disk.with_name(f"{disk.name}.content")
        images.qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, copy)
        return copy


def make(directory: Path) -> Instance:
    """Return a new instance below a directory."""
    path = directory / str(uuid.uuid4())
    path.mkdir()
    (directory / "_base").mkdir()
    return Instance(path=path)
