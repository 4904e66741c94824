"""The hashes of foreign base images, remembered so that each is read through once.

A memo is a file named by device, inode, size, mtime_ns and ctime_ns of the source; its
content is the SHA-256 in hexadecimal, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Container
from pathlib import Path

from allocpolicy.errors import DestinationExists
from allocpolicy.progress import Progress
from allocpolicy.storage import staging

DEFAULT_DIRECTORY = "_base"  # of the image cache, beside the disks
NAME = ".memo"
_DIGEST = re.compile(rb"[0-9a-f]{64}")
_CHUNK = 4 << 20


def recall(directory: Path, fd: int) -> str | None:
    """Return the hash of the open source; None if it is not known."""
    return _read(directory / NAME / _memo_name(fd))


def remember(directory: Path, fd: int, *, digest: str) -> None:
    """Keep the hash of the open source; a memo that says something else is replaced."""
    memo = directory / NAME / _memo_name(fd)
    if _read(memo) == digest:
        return
    memo.parent.mkdir(exist_ok=True)
    memo.unlink(missing_ok=True)
    with staging.create(memo.parent) as staged:
        os.write(staged.fd, digest.encode())
        os.fsync(staged.fd)  # a power cut must not leave a name without content
        with contextlib.suppress(DestinationExists):
            staged.publish(memo.name)


def forget(directory: Path, *, kept: Container[str | None]) -> None:
    """Drop the memos of all hashes but those kept."""
    for memo in directory.glob(f"{NAME}/*"):
        if _read(memo) not in kept:
            memo.unlink(missing_ok=True)


def read_digest(fd: int, progress: Progress) -> str:
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


def _read(memo: Path) -> str | None:
    """Return the hash that a memo holds; None if there is none, or only a part."""
    with contextlib.suppress(OSError):
        text = memo.read_bytes()
        if _DIGEST.fullmatch(text):
            return text.decode()
    return None


def _memo_name(fd: int) -> str:
    status = os.fstat(fd)
    parts = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return "-".join(map(str, parts))
