"""The hashes of foreign base images, remembered so that each is read through once.

Each is a file in ``.memo``, named by device, inode, size, mtime_ns and ctime_ns of the
source; its content is the SHA-256 in hexadecimal, and nothing else. A remembered hash
leads to an entry; it never names a new one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Container, Iterator

from allocpolicy.image_cache import location, records
from allocpolicy.image_cache.home import Cache, naming
from allocpolicy.progress import Progress
from allocpolicy.storage import (
    copy,
    directories,
    mount,
    reading,
    sparse,
    staging,
    temporary,
)
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.inode import inode, marks

_NAME = r"[0-9]+(-[0-9]+){4}"
_DIGEST = rb"[0-9a-f]{64}"
_DIGEST_SIZE = 64
_CHUNK = 4 << 20


def recall(cache: Cache | None, fd: int) -> str | None:
    """Return the hash of the open source; None if it is not known.

    :raises InvalidRequest: when somebody else may have recorded it.
    """
    if cache is None or not _is_dated(fd):
        return None
    with (
        contextlib.suppress(FileNotFoundError),
        records.directory(cache, location.HASHES) as memo,
    ):
        return _read(memo, _name(fd))
    return None


def remember(cache: Cache, fd: int, *, digest: str) -> None:
    """Record the hash of the open source, replacing any other.

    :raises InvalidRequest: when somebody else can change what is recorded.
    """
    if not _is_dated(fd):
        return
    name = _name(fd)
    with records.directory(cache, location.HASHES, made=True) as memo:
        if _read(memo, name) == digest:
            return
        temporary.sweep(memo)
        with staging.create(memo) as staged:
            copy.write(staged.fd, digest.encode(), offset=0)
            os.fchmod(staged.fd, 0o644)
            os.fsync(staged.fd)  # a power cut must not leave a name without content
            staged.replace(name)


def forget(cache: Cache, *, kept: Container[str | None]) -> None:
    """Drop all hashes except those in ``kept``.

    :raises InvalidRequest: when the hashes may be somebody else's files.
    """
    with (
        contextlib.suppress(FileNotFoundError),
        records.directory(cache, location.HASHES) as memo,
    ):
        temporary.sweep(memo)
        with directories.readable(memo) as fd:
            names = [name for name in os.listdir(fd) if re.fullmatch(_NAME, name)]
        for name in names:
            if _read(memo, name) not in kept:
                with (
                    contextlib.suppress(FileNotFoundError, IsADirectoryError),
                    naming(memo.path / name),
                ):
                    os.unlink(name, dir_fd=memo.fd)


def compute(fd: int, progress: Progress) -> str:
    """Return the SHA-256 of the open file's content: its size, and what isn't zero.

    Holes are skipped, and zeroes count as holes: a copy of a file has the same hash,
    however sparse it is.
    """
    import hashlib  # loads OpenSSL, for foreign formats only

    size = os.fstat(fd).st_size
    hasher = hashlib.sha256(size.to_bytes(8, "little"))
    for offset, content in _chunks(fd, size=size):
        for start, length in sparse.nonzero(content):
            for at in range(start, start + length, sparse.GRANULE):
                hasher.update((offset + at).to_bytes(8, "little"))
                hasher.update(content[at : at + sparse.GRANULE])
        progress(done=offset + len(content), total=size)
    progress(done=size, total=size)
    return hasher.hexdigest()


def _chunks(fd: int, *, size: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, content) of all granules with data in them, in order."""
    done = 0
    for offset, length in sparse.each_between(fd, start=0, end=size):
        end = min(-(-(offset + length) // sparse.GRANULE) * sparse.GRANULE, size)
        done = max(done, offset // sparse.GRANULE * sparse.GRANULE)
        while done < end:
            content = reading.read(fd, min(_CHUNK, end - done), offset=done)
            if not content:
                return  # it became shorter: not the bytes that were checked
            yield done, memoryview(content)
            done += len(content)


def _is_dated(fd: int) -> bool:
    """Return whether the kernel keeps the file's dates, and not a user's program."""
    return not mount.of(fd).type.startswith("fuse")


def _read(memo: Directory, name: str) -> str | None:
    """Return the hash that a file holds; None if there is none, or only a part."""
    with (
        contextlib.suppress(OSError),
        records.opened(memo, name, flags=os.O_RDONLY) as fd,
    ):
        text = reading.read(fd, _DIGEST_SIZE + 1, offset=0)
        if re.fullmatch(_DIGEST, text):
            return text.decode()
    return None


def _name(fd: int) -> str:
    status = os.fstat(fd)
    return "-".join(map(str, (*inode(status), *marks(status))))
