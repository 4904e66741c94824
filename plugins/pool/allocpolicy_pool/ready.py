"""Ready-made disks: what they are called, and whether a file really is one.

A disk that is ready is called ``SIZE.FORMAT.INODE-TIME``: its virtual size in bytes,
and which file it is, unchanged since when, in hexadecimal. A copy is another inode, and
whoever writes to the file or punches a hole into it changes its time. So the file
itself must bear out what its name says: that it was filled to its end, and that a guest
reads zeroes. Extended attributes, which not every filesystem has, are not needed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from allocpolicy import (
    CreateQcow2,
    DiskFormat,
    InvalidRequest,
    automatic_cluster_size,
)

_NAME = re.compile(
    r"(?P<size>[1-9][0-9]{0,18})\.(?P<format>raw|qcow2)"
    r"\.(?:(?P<state>[0-9a-f]+-[0-9a-f]+)|new-[0-9a-f]{16})"
)
_OTHERS_CAN_WRITE = 0o022


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What ready-made disks have in common; ``virtual_size`` is in bytes."""

    virtual_size: int
    format: DiskFormat

    @property
    def file_size(self) -> int:
        """Return the bytes of such a disk's file, each of them written.

        :raises InvalidRequest: when no disk has that virtual size.
        """
        size = self.virtual_size
        if self.format is DiskFormat.RAW:
            return size
        clusters = automatic_cluster_size(size)
        made = CreateQcow2(virtual_size=size, cluster_size=clusters, mapped=True)
        return made.full_size

    def new_name(self) -> str:
        """Return a name for a disk that is being made."""
        return f"{self.virtual_size}.{self.format}.new-{os.urandom(8).hex()}"

    def ready_name(self, status: os.stat_result) -> str:
        """Return what the disk with this state is called once it is ready."""
        return f"{self.virtual_size}.{self.format}.{_state(status)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file in a pool; ``problem`` says why it is not handed out, None: it is ready.

    ``kind`` is what its name says, None if that is nothing; ``storage`` is in bytes.
    ``mendable``: it is a disk as it was made, but a kill came before it was called
    ready, or while it was handed out and had its new owner or mode already.
    """

    name: str
    kind: Kind | None
    storage: int
    problem: str | None
    mendable: bool = False

    @property
    def ready(self) -> bool:
        """Return whether it can be handed out."""
        return self.problem is None


def entries(pool: int, *, kind: Kind | None = None) -> Iterator[Entry]:
    """Yield what is in an open pool, by name; with a kind, only disks of that kind."""
    for name in sorted(_names(pool)):
        if kind is not None and _named(name)[0] != kind:
            continue
        try:
            status = os.stat(name, dir_fd=pool, follow_symlinks=False)
        except FileNotFoundError:  # handed out meanwhile
            continue
        yield entry(name, status)


def _names(pool: int) -> list[str]:
    """Return the names in an open pool as they are now.

    btrfs (Linux 6.5) shows no names that are newer than the descriptor that is read.
    """
    now = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=pool)
    try:
        return os.listdir(now)
    finally:
        os.close(now)


def entry(name: str, status: os.stat_result) -> Entry:
    """Return what the file of this name and state is in a pool."""
    kind, state = _named(name)
    altered = next(_alterations(status, kind=kind, state=state), None)
    return Entry(
        name=name,
        kind=kind,
        storage=status.st_blocks * 512,
        problem=altered or _unready(status, state=state),
        mendable=altered is None,
    )


def _alterations(
    status: os.stat_result, *, kind: Kind | None, state: str | None
) -> Iterator[str]:
    """Yield why a file is no disk as it was made, with all of it written."""
    if kind is None:
        yield "its name is not that of a ready-made disk"
        return
    try:
        file_size = kind.file_size
    except InvalidRequest as error:
        yield error.reason
        return
    if not stat.S_ISREG(status.st_mode):
        yield "it is not a regular file"
    if status.st_nlink != 1:
        yield f"it has {status.st_nlink} names"
    if status.st_size != file_size:
        yield f"it has {status.st_size} bytes, not {file_size}"
    if status.st_blocks * 512 < file_size:
        yield "it is not fully written"
    if state not in (None, _state(status)):
        yield "it is a copy, or was written to since it was made"


def _unready(status: os.stat_result, *, state: str | None) -> str | None:
    """Return what a disk lacks until it is ready: the next fill gives it that."""
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & _OTHERS_CAN_WRITE:
        return f"others may write to it (mode {status.st_mode & 0o7777:04o})"
    return "it was not called ready yet" if state is None else None


def _named(name: str) -> tuple[Kind | None, str | None]:
    """Return what a name says about its file: of which kind, and in which state."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None, None
    size, format = int(match["size"]), DiskFormat(match["format"])
    return Kind(virtual_size=size, format=format), match["state"]


def _state(status: os.stat_result) -> str:
    """Return which file it is, and since when its content is what it is."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}"
