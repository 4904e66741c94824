"""The hashes of foreign base images, remembered so that each is read through once.

Each is a file in ``.memo``, named by device, inode, size, mtime_ns and ctime_ns of the
source; its content is the SHA-256 in hexadecimal, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Container
from pathlib import Path

from allocpolicy.image_cache import location
from allocpolicy.progress import Progress
from allocpolicy.storage import directories, staging

_DIGEST = re.compile(rb"[0-9a-f]{64}")
_CHUNK = 4 << 20


def recall(directory: Path, fd: int) -> str | None:
    """Return the hash of the open source; None if it is not known."""
    return _read(_path(directory, fd))


def remember(directory: Path, fd: int, *, digest: str) -> None:
    """Record the hash of the open source, replacing any other."""
    path = _path(directory, fd)
    if _read(path) == digest:
        return
    path.parent.mkdir(exist_ok=True)
    with (
        directories.opened(path.parent) as memo,
        staging.create(memo) as staged,
    ):
        os.write(staged.fd, digest.encode())
        os.fsync(staged.fd)  # a power cut must not leave a name without content
        staged.replace(path.name)


def forget(directory: Path, *, kept: Container[str | None]) -> None:
    """Drop all hashes except those in ``kept``."""
    for path in directory.glob(f"{location.HASHES}/*"):
        if _read(path) not in kept:
            path.unlink(missing_ok=True)


def compute(fd: int, progress: Progress) -> str:
    """Return the SHA-256 of the open file's bytes."""
    import hashlib  # loads OpenSSL, for foreign formats only

    hasher = hashlib.sha256()
    total = os.fstat(fd).st_size
    done = 0
    while chunk := os.pread(fd, _CHUNK, done):
        hasher.update(chunk)
        done += len(chunk)
        progress(done=done, total=total)
    return hasher.hexdigest()


def _read(path: Path) -> str | None:
    """Return the hash that a file holds; None if there is none, or only a part."""
    with contextlib.suppress(OSError):
        text = path.read_bytes()
        if _DIGEST.fullmatch(text):
            return text.decode()
    return None


def _path(directory: Path, fd: int) -> Path:
    status = os.fstat(fd)
    parts = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return directory / location.HASHES / "-".join(map(str, parts))
