"""Archives that the kernel unpacks as its first root directory.

The format is newc, of the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from allocpolicy.record import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A directory or a file of an archive."""

    name: str
    mode: int
    content: bytes


def directory(name: str) -> Entry:
    """Return a directory."""
    return Entry(name=name, mode=stat.S_IFDIR | 0o755, content=b"")


def file(name: str, content: bytes, *, executable: bool = False) -> Entry:
    """Return a file."""
    mode = stat.S_IFREG | (0o755 if executable else 0o644)
    return Entry(name=name, mode=mode, content=content)


def cpio(entries: Iterable[Entry]) -> bytes:
    """Return an archive; the kernel unpacks archives that follow one another."""
    trailer = Entry(name=_TRAILER, mode=0, content=b"")
    return b"".join(
        part
        for inode, entry in enumerate([*entries, trailer], start=1)
        for part in _parts(entry, inode=inode)
    )


def _parts(entry: Entry, *, inode: int) -> Iterator[bytes]:
    """Yield the header with the name, and the content, both padded to 4 bytes."""
    name = entry.name.encode() + b"\0"
    # c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime; c_filesize; c_maj, c_min, c_rmaj,
    # c_rmin; c_namesize, c_chksum
    numbers = (
        *(inode, entry.mode, 0, 0, 1, 0),
        len(entry.content),
        *(0, 0, 0, 0),
        *(len(name), 0),
    )
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    yield _padded(header + name)
    yield _padded(entry.content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
