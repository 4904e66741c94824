"""Directories of instances' disks: overlays, with their base images in ``_base``."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.harness import domains, images
from tests.harness.images import MIB
from tests.harness.machines import DomainDisk

SIZE = 64 * MIB  # of an overlay of `Instances`
WRITES = ("write -P 1 1M 70k", "write -P 2 40M 1M", "write -z 2M 64k")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance's directory, called by a UUID as Nova's are, and the disks in it."""

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
        return _overlay(
            self.path / name,
            base=base or self.image(),
            format=format,
            writes=("write -P 7 2M 64k",) if written else (),
        )

    def raw(self, name: str = "disk", *, size: int = 8 * MIB) -> Path:
        """Return a new raw disk, all of it a hole."""
        path = self.path / name
        with path.open("xb") as file:
            file.truncate(size)
        return path


def make(directory: Path) -> Instance:
    """Return a new instance below a directory."""
    path = directory / str(uuid.uuid4())
    path.mkdir()
    (directory / "_base").mkdir()
    return Instance(path=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """One directory with the disks of several machines."""

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
        """Make a machine's disk; its guest has written to it."""
        path = _overlay(self.directory / name, base=base, size=size, writes=WRITES)
        return DomainDisk(path=path, target=target)

    def names(self) -> list[str]:
        """Return the names of all files, hidden ones too."""
        return sorted(
            str(path.relative_to(self.directory))
            for path in self.directory.rglob("*")
            if not path.is_dir()
        )


def _overlay(
    path: Path,
    *,
    base: Path,
    format: str = "raw",
    size: int | None = None,
    writes: tuple[str, ...],
) -> Path:
    """Make an overlay, as large as its base or as is said, and write to it."""
    backing = ("-F", format, "-b", base)
    sized = () if size is None else (size,)
    images.qemu_img("create", "-q", "-f", "qcow2", *backing, path, *sized)
    if writes:
        images.qemu_io(path, *writes, format="qcow2")
    return path
