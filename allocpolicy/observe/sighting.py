"""What is seen of one file of a fleet: an observation, or why there is none.

Nothing here is raised for a disk: whatever is wrong with it is said of it.
"""

from __future__ import annotations

import errno
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Headroom, Observation
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.errors import ImageError
from allocpolicy.image_cache import memo
from allocpolicy.images import existing, image_file
from allocpolicy.images import stamp as stamps
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe import disk as observe
from allocpolicy.observe.surroundings import Surroundings
from allocpolicy.observe.walk import Found
from allocpolicy.qcow2.header import MAGIC
from allocpolicy.storage import lease, mount
from allocpolicy.storage.failure import UNSUPPORTED
from allocpolicy.storage.mount import Identity

_WRITABLE = 0o222
_LEASES_LAST = 1.0  # seconds
_NO_HEADROOM = Headroom(ratio=0, minimum=0)  # whoever knows all disks sees to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A disk as it was seen: ``observed``, or ``fault`` for want of it.

    ``inode`` is (device, number); None when it was not even opened.
    """

    path: Path
    inode: tuple[int, int] | None = None
    stamp: Stamp | None = None
    observed: Observation | None = None
    fault: Verdict | None = None


class Observer:
    """Looks at files, one after another; knows each filesystem after its first."""

    def __init__(self, *, unstamped: DiskFormat | None) -> None:
        self._unstamped = unstamped
        self._identities: dict[int, Identity] = {}
        self._leased: frozenset[int] = frozenset()
        self._leases_read = -math.inf

    def __call__(self, found: Found) -> Sighting | None:
        """Return what the file is; None when it is none of the disks to look at.

        :param found: what is not named and has no stamp is looked at only if the format
            of such disks is known.
        """
        path = Path(found.path)
        try:
            if not found.named and not self._may_be_disk(found.path):
                return None
            self._refuse_leased(path)
            with image_file.opened_resolved(path) as fd:
                stamp = stamps.read(fd, path=path)
                return self._look(fd, path=path, stamp=stamp, named=found.named)
        except (ImageError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, FileNotFoundError) and not found.named:
                return None  # it was removed meanwhile
            return Sighting(path=path, fault=_unverifiable(_reason(error)))

    def _may_be_disk(self, path: str) -> bool:
        try:
            os.getxattr(path, stamps.XATTR, follow_symlinks=False)
        except OSError as error:
            if error.errno not in UNSUPPORTED | {errno.ENODATA}:
                raise
            return self._unstamped is not None and not _is_cached(path)
        return True

    def _refuse_leased(self, path: Path) -> None:
        """Let those be that rewrite a disk: opening it would stop them.

        :raises ImageError: when it has a lease on it.
        """
        now = time.monotonic()
        if now - self._leases_read > _LEASES_LAST:
            self._leased, self._leases_read = lease.leased_inodes(), now
        # Other filesystems have the same inode numbers.
        if os.stat(path).st_ino in self._leased and lease.is_leased(path):
            raise ImageError(path, existing.BEING_REWRITTEN)

    def _look(
        self, fd: int, *, path: Path, stamp: Stamp | None, named: bool
    ) -> Sighting | None:
        status = os.fstat(fd)
        inode = status.st_dev, status.st_ino
        format = stamp.format if stamp else self._unstamped
        if format is None:
            reason = (
                "it has no stamp: no policy is known; say one with --strategy and its"
                " format with --format"
            )
            return Sighting(path=path, inode=inode, fault=_unverifiable(reason))
        if stamp is None and not named and not _looks_like(fd, status, format):
            return None
        try:
            around = self._surroundings(fd)
            found = observe.look(fd, path=path, format=format, surroundings=around)
        except ImageError as error:
            fault = Verdict(judgement=Judgement.DRIFTED, reason=error.reason)
            return Sighting(path=path, inode=inode, stamp=stamp, fault=fault)
        return Sighting(path=path, inode=inode, stamp=stamp, observed=found.observation)

    def _surroundings(self, fd: int) -> Surroundings:
        device = os.fstat(fd).st_dev
        if device not in self._identities:
            self._identities[device] = mount.identify(fd)
        identity = self._identities[device]
        return Surroundings(
            filesystem=identity.type,
            copy_on_write=identity.copy_on_write,
            headroom=_NO_HEADROOM,
            unwritten_beside=lambda: 0,
        )


def _is_cached(path: str) -> bool:
    return memo.DEFAULT_DIRECTORY in Path(path).parent.parts


def _looks_like(fd: int, status: os.stat_result, format: DiskFormat) -> bool:
    """Return whether a file without a stamp passes for a disk of the format.

    Its format is what the user says that disks are; this passes over what is none.
    """
    if format is DiskFormat.QCOW2:
        return os.pread(fd, len(MAGIC), 0) == MAGIC
    return bool(status.st_mode & _WRITABLE)


def _unverifiable(reason: str) -> Verdict:
    return Verdict(judgement=Judgement.UNVERIFIABLE, reason=reason)


def _reason(error: ImageError | OSError) -> str:
    if isinstance(error, ImageError):
        return error.reason
    return f"cannot read it: {error.strerror}"
