"""Following a qcow2's backing files, by name and format as its headers record them.

Read-only, and without any lock: nothing is asked of the images but their headers.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.contract.facts import BackingFile
from allocpolicy.errors import ImageError
from allocpolicy.images import image_file
from allocpolicy.qcow2.header import Header, read_header

MAX_DEPTH = 200  # QEMU itself slows down long before


def chain(header: Header, *, fd: int, path: Path) -> tuple[BackingFile, ...]:
    """Return the images below an open one, nearest first.

    What can't be followed (missing, no file, of unknown format, malformed, a loop) is
    the last, with its problem.
    """
    return tuple(_follow(header, fd=fd, path=path))


def _follow(header: Header, *, fd: int, path: Path) -> Iterator[BackingFile]:
    status = os.fstat(fd)
    seen = {(status.st_dev, status.st_ino)}
    directory = path.parent
    above: Header | None = header
    while above is not None and above.backing_file is not None:
        backing, format = directory / above.backing_file, above.backing_format
        try:
            if image_file.NETWORK_DISK.match(above.backing_file):
                raise ImageError(backing, "it is not a file")
            image = _image(backing, format=format, state=_state(backing))
            if image.inode in seen or len(seen) > MAX_DEPTH:
                raise ImageError(backing, "the chain of backing files is a loop")
        except ImageError as error:
            yield BackingFile(path=backing, format=format, problem=error.reason)
            return
        seen.add(image.inode)
        directory, above = image.directory, image.header
        yield image.described


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """A backing file as it was read; raw ones have no header."""

    described: BackingFile
    inode: tuple[int, int]
    directory: Path
    header: Header | None


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes when the file does.

    :raises ImageError: when there is nothing.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageError(path, f"cannot open it: {error.strerror}") from error
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


# Thousands of disks stand on a few base images.
@functools.lru_cache(maxsize=256)
def _image(path: Path, *, format: str | None, state: tuple[int, ...]) -> _Image:
    """Return the image, read once in each state.

    :raises ImageError: when it is neither raw nor a sound qcow2.
    """
    with image_file.opened(path) as (resolved, fd):
        header, size = _read(fd, path=path, format=format)
        status = os.fstat(fd)
    return _Image(
        described=BackingFile(path=path, format=format, virtual_size=size),
        inode=(status.st_dev, status.st_ino),
        directory=resolved.parent,
        header=header,
    )


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
