"""Carrying out a plan on a file: its steps alone, without what the framework adds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allocpolicy import BaseImage, DiskFormat, Mode, Plan
from allocpolicy.record import dataclass
from allocpolicy.registry import call
from allocpolicy.testing.base_images import BaseFile


def run_plan(plan: Plan, disk: Path) -> Path:
    """Run a plan's steps on a file and return its path.

    A staged plan makes the file, which must not exist; one in place changes it. Nothing
    is stamped, measured or undone: whatever a step raises is passed on, and the file is
    left as it is then. A ready-made file that is adopted takes the path.
    """
    new = os.O_CREAT | os.O_EXCL if plan.mode is Mode.STAGED else 0
    fd = os.open(disk, os.O_RDWR | os.O_CLOEXEC | new, 0o600)
    target = _File(fd=fd, disk=disk)
    try:
        for step in plan.steps:
            call.check(step, target)
            step.run(target, _unwatched)
    finally:
        os.close(fd)
    return disk


@contextmanager
def opened(base: BaseFile) -> Iterator[BaseImage]:
    """Yield a base image as strategies get it, open while the body runs."""
    fd = os.open(base.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield BaseImage(
            path=base.path,
            fd=fd,
            format=DiskFormat(base.format),
            virtual_size=base.virtual_size,
            data_bytes=base.virtual_size,
            plain=base.plain,
            identity=(),
            source=base.path,
            source_format=base.format,
        )
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The file that the steps work on."""

    fd: int
    disk: Path

    @property
    def directory(self) -> Path:
        """The directory that the file is in."""
        return self.disk.parent

    def adopt(self, path: Path) -> None:
        """Make another file the disk; it takes the disk's name."""
        ready = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            assert stat.S_ISREG(os.fstat(ready).st_mode)
            os.dup2(ready, self.fd, inheritable=False)
        finally:
            os.close(ready)
        os.replace(path, self.disk)


def _unwatched(*, done: int, total: int) -> None:
    """Tell nobody."""
