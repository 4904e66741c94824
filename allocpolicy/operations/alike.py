"""That disks of one kind are asked for again, in a stream of orders of any length."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_DIGEST = 16  # bytes of a kind's hash; a million kinds take 100 MB


class Alike:
    """Which kinds of disks were asked for, in which directories."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def was_seen(self, disk: Path, *kind: object) -> bool:
        """Return whether such a disk was asked for there before; note that it is.

        :param kind: all that makes one disk another; what is written in two ways is of
            two kinds.
        """
        told = repr((os.path.dirname(disk), *kind))
        digest = hashlib.blake2b(told.encode(errors="replace"), digest_size=_DIGEST)
        is_known = digest.digest() in self._seen
        self._seen.add(digest.digest())
        return is_known
