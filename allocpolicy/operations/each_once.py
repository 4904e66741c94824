"""That each disk is asked for once, in a stream of orders of any length."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.storage import directories

_DIGEST = 16  # bytes of a path's hash; a million paths take 100 MB


class EachOnce:
    """Which disks were asked for; symbolic links in their paths are as they are."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def refusal(self, disk: Path, *, base: Path | None) -> InvalidRequest | None:
        """Return why a disk can't be made beside those before it; note that it is."""
        if base is not None and _digest(base) in self._seen:
            return InvalidRequest(
                f"{disk}: its base image {base} is a disk of the same batch, which may"
                " be made at the same time: make that first, by itself"
            )
        digest = _digest(disk)
        if digest in self._seen:
            return InvalidRequest(f"{disk}: it is asked for twice in one batch")
        self._seen.add(digest)
        return None


def _digest(path: Path) -> bytes:
    whole = os.path.normpath(directories.absolute(path))
    return hashlib.blake2b(os.fsencode(whole), digest_size=_DIGEST).digest()
