"""Following a qcow2's backing files, by name and format as its headers record them.

Read-only, and without any lock: nothing is asked of the images but their headers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy import image_file
from allocpolicy.errors import ImageError
from allocpolicy.facts import BackingFile
from allocpolicy.qcow2.header import Header, read_header

MAX_DEPTH = 200  # QEMU itself slows down long before


def chain(header: Header, *, fd: int, path: Path) -> tuple[BackingFile, ...]:
    """Return the images below an open one, nearest first.

    What can't be followed (missing, no file, of unknown format, malformed, a loop) is
    the last, with its problem.
    """
    return tuple(_follow(header, fd=fd, path=path))


def _follow(header: Header, *, fd: int, path: Path) -> Iterator[BackingFile]:
    seen = {_inode(fd)}
    directory = path.parent
    above: Header | None = header
    while above is not None and above.backing_file is not None:
        backing, format = directory / above.backing_file, above.backing_format
        try:
            if image_file.NETWORK_DISK.match(above.backing_file):
                raise ImageError(backing, "it is not a file")
            with image_file.opened(backing) as (resolved, opened):
                if (inode := _inode(opened)) in seen or len(seen) > MAX_DEPTH:
                    raise ImageError(backing, "the chain of backing files is a loop")
                seen.add(inode)
                directory = resolved.parent
                above, size = _read(opened, path=backing, format=format)
        except ImageError as error:
            yield BackingFile(path=backing, format=format, problem=error.reason)
            return
        yield BackingFile(path=backing, format=format, virtual_size=size)


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _read(fd: int, *, path: Path, format: str | None) -> tuple[Header | None, int]:
    """Return the header if it has one, and the virtual size.

    :raises ImageError: when it is neither raw nor a sound qcow2.
    """
    if format == "raw":
        return None, -(-os.fstat(fd).st_size // 512) * 512  # as QEMU rounds it
    if format == "qcow2":
        header = read_header(fd, path=path)
        return header, header.virtual_size
    named = f"{format!r}, not raw or qcow2" if format else "not recorded"
    raise ImageError(path, f"its format is {named}")
