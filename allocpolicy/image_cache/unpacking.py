"""Taking a packed disk image out of its file: measured first, then written sparsely.

What comes out is as untrusted as any image, and goes through the same checks. It is
bounded: by the size of the disk that it is for, or else by the size of the packed file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.errors import ImageError, NotEnoughSpace
from allocpolicy.image_cache import packed
from allocpolicy.images import base_image, inspector
from allocpolicy.images.base_image import SourceImage
from allocpolicy.progress import Progress
from allocpolicy.record import dataclass, replace
from allocpolicy.storage import copy, sparse, staging
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import explained
from allocpolicy.storage.space import free_bytes
from allocpolicy.storage.staging import Staged
from allocpolicy.wording import amount

_GIB = 1 << 30
_AT_LEAST = 64 * _GIB
_RATIO = 1032  # DEFLATE's largest; others reach it on zeroes only
_HEAD, _TAIL = 8 << 20, 1 << 20  # where headers, tables and footers are


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is packed in a file, as its headers say, and its bytes that aren't zero."""

    format: str
    virtual_size: int
    data_bytes: int


def limit(source: SourceImage, *, largest: int | None) -> int:
    """Return how many bytes may come out of a packed file.

    :param largest: the size of the disk, where it was given; the image's tables may
        take more than that.
    """
    if largest is None:
        largest = max(_AT_LEAST, os.fstat(source.fd).st_size * _RATIO)
    return largest + largest // 8 + _GIB // 16


def measure(source: SourceImage, *, limit: int, progress: Progress) -> Measured:
    """Read the packed image through, and keep nothing of it.

    :raises ImageError: when it is damaged, or no disk image, or too large.
    """
    fd = os.memfd_create("both ends of an image")
    try:
        data = _keep_ends(source, fd, limit=limit, progress=progress)
        format, size = base_image.claimed(
            fd, declared=source.declared, path=source.path
        )
    finally:
        os.close(fd)
    _refuse_nested(format, path=source.path)
    return Measured(format=format, virtual_size=size, data_bytes=min(data, size))


def _keep_ends(source: SourceImage, fd: int, *, limit: int, progress: Progress) -> int:
    """Write both ends of the packed image; return its bytes that aren't zero."""
    size = data = 0
    tail = b""
    with packed.stream(source, limit=limit) as chunks:
        for chunk in chunks:
            if size < _HEAD:
                copy.write(fd, chunk, offset=size)
            size += len(chunk)
            tail = (tail + chunk)[-_TAIL:]
            data += sum(length for _, length in sparse.nonzero(memoryview(chunk)))
            progress(done=_consumed(source), total=os.fstat(source.fd).st_size)
    copy.write(fd, tail, offset=size - len(tail))
    return data


@contextlib.contextmanager
def unpacked(
    source: SourceImage,
    *,
    directory: Directory,
    limit: int,
    beside: int,
    progress: Progress,
) -> Iterator[tuple[SourceImage, Staged]]:
    """Yield the image that was packed, in an unnamed file, checked.

    :param directory: where the file is.
    :param beside: the bytes that must stay free.
    :raises ImageError: when it is damaged, unsafe, too large, or packed itself.
    :raises NotEnoughSpace: when it does not fit.
    """
    with staging.create(directory) as staged:
        _write_all(source, staged, limit=limit, beside=beside, progress=progress)
        inner = base_image.checked(
            replace(source.file, fd=staged.fd), declared=source.declared
        )
        _refuse_nested(inner.format, path=source.path)
        yield inner, staged


def _write_all(
    source: SourceImage, staged: Staged, *, limit: int, beside: int, progress: Progress
) -> None:
    path, done = staged.directory, 0
    with (
        explained(fd=staged.fd, path=path, needed=0, action=f"unpack {source.path}"),
        packed.stream(source, limit=limit) as chunks,
    ):
        for chunk in chunks:
            _write(staged.fd, chunk, at=done, beside=beside, path=path)
            done += len(chunk)
            progress(done=_consumed(source), total=os.fstat(source.fd).st_size)


def _write(fd: int, chunk: bytes, *, at: int, beside: int, path: Path) -> None:
    """Write what is not zeroes while there is room for it; the rest is a hole."""
    content = memoryview(chunk)
    os.ftruncate(fd, at + len(chunk))
    for start, length in sparse.nonzero(content):
        if (free := free_bytes(fd)) < length + beside:
            reason = f"{amount(at)} of a packed image are unpacked, and there is more"
            raise NotEnoughSpace(path, length + beside, free, reason)
        copy.write(fd, content[start : start + length], offset=at + start)


def _refuse_nested(format: str, *, path: Path) -> None:
    if format == inspector.SPLIT:
        reason = "it holds only the descriptor of a vmdk, which names other files"
        raise ImageError(path, f"{reason}; unpack all of them first")
    if format in inspector.PACKED:
        reason = f"it is packed twice: unpack it until one layer ({format}) is left"
        raise ImageError(path, reason)


def _consumed(source: SourceImage) -> int:
    """Return how much of the packed file was read, as far as it can be known."""
    return os.lseek(source.fd, 0, os.SEEK_CUR)
