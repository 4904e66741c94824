"""An existing disk, opened once; its policy is in its stamp, its format never probed.

The guest can write anything into a raw disk, even a qcow2 header. The format comes from
the stamp or from the caller.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import ImageError
from allocpolicy.images import image_file
from allocpolicy.images import stamp as stamps
from allocpolicy.images.stamp import Stamp
from allocpolicy.storage import lease

BEING_REWRITTEN = "it is being rewritten; try again when that is done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """An open disk; ``path`` has no symbolic links."""

    path: Path
    fd: int
    format: DiskFormat
    stamp: Stamp | None


@contextlib.contextmanager
def opened(
    path: Path, *, declared: DiskFormat | None = None, flags: int = os.O_RDONLY
) -> Iterator[Disk]:
    """Open a disk without a lock; a running QEMU doesn't notice.

    :param declared: its format, if it has no stamp.
    :raises ImageError: when it can't be opened or isn't a regular file, or its format
        is unknown or contradicts its stamp; also while it is being rewritten, because
        opening it would stop that.
    """
    if lease.is_leased(image_file.resolve(path)):
        raise ImageError(path, BEING_REWRITTEN)
    with image_file.opened(path, flags=flags) as (resolved, fd):
        stamp = stamps.read(fd, path=resolved)
        yield Disk(
            path=resolved,
            fd=fd,
            format=_format(stamp, declared=declared, path=resolved),
            stamp=stamp,
        )


def _format(
    stamp: Stamp | None, *, declared: DiskFormat | None, path: Path
) -> DiskFormat:
    if stamp is None:
        if declared is None:
            reason = "its format is unknown, as it has no stamp; state it with --format"
            raise ImageError(path, reason)
        return declared
    if declared not in (None, stamp.format):
        reason = f"its stamp says {stamp.format}, not {declared}"
        raise ImageError(path, reason)
    return stamp.format
