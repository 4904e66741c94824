"""What is seen of one file of a fleet: an observation, or why there is none.

A problem with a disk is never raised: it is recorded as the disk's fault.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from allocpolicy.contract.facts import DiskFormat, Headroom, Observation
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.errors import ImageError, InvalidRequest, StorageFailed, TooMuchWork
from allocpolicy.images import existing, heritage, image_file, overlay
from allocpolicy.images import reach as reaches
from allocpolicy.images import stamp as stamps
from allocpolicy.images.appearance import Appearance
from allocpolicy.images.heritage import Inherited
from allocpolicy.images.image_file import ImageFile
from allocpolicy.images.overlay import Overlay
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe import disk as observe
from allocpolicy.observe import holding as holdings
from allocpolicy.observe import likeness as likenesses
from allocpolicy.observe.holding import Holding
from allocpolicy.observe.known import Knowledge
from allocpolicy.observe.likeness import Likeness
from allocpolicy.observe.memo import Learnt
from allocpolicy.observe.surroundings import Surroundings
from allocpolicy.observe.walk import Found
from allocpolicy.qcow2.header import MAGIC
from allocpolicy.record import dataclass
from allocpolicy.storage import below, effort, mount
from allocpolicy.storage.effort import Bound
from allocpolicy.storage.inode import Inode, inode
from allocpolicy.storage.lease import Leases
from allocpolicy.storage.mount import Identity

# A disk of 64 TiB takes 2 s and 50 MiB if its clusters are in order; one of 1 TiB whose
# 16 million clusters are all in disorder takes 2 s and 400 MiB.
BOUND = Bound(seconds=20, memory=1 << 30)
_NO_MEMORY = "there is not enough memory to look at it; try again with fewer --jobs"
LOST = (
    "the process that looked at it was killed, perhaps for lack of memory; try again"
    " with fewer --jobs"
)
_NO_HEADROOM = Headroom(ratio=0, minimum=0)  # the audit checks it for all disks


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A file as it was seen: ``observed`` if it is a disk, or its ``fault``.

    ``inode`` is (device, number), and ``holding`` the storage that the file takes; None
    when it was not even opened. ``overlay`` is what it is on, as its header has it.
    Without ``observed`` and ``fault`` nothing says by what policy the file is to be
    judged, and ``likeness`` is what it looks like. ``foreign`` names its content if
    that is an image of a format that no disk has. ``unread``: the fault is that it
    could not be read; ``misstamped``: that its stamp is none. ``learnt`` is what the
    next audit need not read again.
    """

    path: Path
    inode: Inode | None = None
    stamp: Stamp | None = None
    observed: Observation | None = None
    fault: Verdict | None = None
    unread: bool = False
    misstamped: bool = False
    holding: Holding | None = None
    overlay: Overlay | None = None
    inherited: Inherited | None = None

    likeness: Likeness = Likeness.DISK
    named: bool = False
    foreign: Appearance | None = None
    learnt: Learnt | None = None

    @property
    def policy(self) -> Stamp | None:
        """Return its stamp, or what it inherits instead."""
        return self.stamp or (self.inherited.stamp if self.inherited else None)

    @property
    def passed_over(self) -> bool:
        """Return whether no policy is known for the file: it has no stamp."""
        return self.observed is None and self.fault is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What is said of a file without a stamp; with ``force`` whatever it looks like."""

    format: DiskFormat
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a look at a disk gave, or its fault; nothing if no policy is known."""

    observed: Observation | None = None
    fault: Verdict | None = None
    learnt: Learnt | None = None


class Observer:
    """Looks at files, each opened once; knows each filesystem after its first file."""

    def __init__(
        self,
        *,
        declared: Mapping[str, Declared] = MappingProxyType({}),
        trusted: tuple[Path, ...] = (),
        inherit: bool = False,
        known: Mapping[str, DiskFormat] = MappingProxyType({}),
        bound: Bound = BOUND,
        knowledge: Knowledge | None = None,
    ) -> None:
        """Know how to look.

        :param declared: what is said of files without a stamp, by path.
        :param known: formats of disks by path, as VMs have them: that goes before a
            stamp's format, and such a disk has the policy of the nearest below it.
        :param knowledge: what need not be read; None: everything is read.
        """
        self._declared, self._trusted = declared, trusted
        self._inherit, self._known = inherit, known
        self._bound = bound
        self._knowledge = knowledge
        self._identities: dict[int, tuple[Identity, str | None]] = {}
        self._leases = Leases()

    def __call__(self, found: Found) -> Sighting | None:
        """Return what the file is; None when it is gone."""
        path = Path(found.path)
        try:
            has_stamp = stamps.is_visible(found.path)
            with image_file.found_resolved(path) as file:
                if self._is_leased(file):
                    if has_stamp or found.named:
                        raise ImageError(path, existing.BEING_REWRITTEN)
                    return _unopened(file, found)
                with image_file.reopened(file) as image, effort.bounded(self._bound):
                    return self._look(image.fd, found=found, path=path)
        except (ImageError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, FileNotFoundError) and not found.named:
                return None  # it was removed meanwhile
            fault = _unverifiable(_reason(error))
            return Sighting(path=path, fault=fault, unread=isinstance(cause, OSError))

    def _is_leased(self, file: ImageFile) -> bool:
        """Return whether another process has a lease on the file.

        It may be rewriting a disk, and would stop if we opened it.
        """
        return self._leases.include(file.fd)

    def _look(self, fd: int, *, found: Found, path: Path) -> Sighting:
        status = os.fstat(fd)
        stamp = inherited = None
        unread = misstamped = False
        answer = _Answer()
        try:
            stamp = stamps.read(fd, path=path)
        except ImageError as error:
            answer = _Answer(fault=_unverifiable(error.reason))
            misstamped = True
        else:
            if stamp is None and (self._inherit or found.path in self._known):
                reach = reaches.of(fd, trusted=self._trusted)
                with contextlib.suppress(ImageError):
                    inherited = heritage.of(fd, path=path, reach=reach)
            known = stamp or (inherited.stamp if inherited else None)
            try:
                answer = self._observed(fd, found=found, path=path, stamp=known)
            except StorageFailed as error:
                answer, unread = _Answer(fault=_unverifiable(error.reason)), True
        observed, fault, holding = answer.observed, answer.fault, None
        try:
            holding = _holding(fd, path=path, observed=observed, stamp=stamp)
        except OSError as error:
            if observed is None:  # nothing else says that it can't be read
                fault, unread = fault or _unverifiable(_reason(error)), True
        return Sighting(
            path=path,
            inode=inode(status),
            stamp=stamp,
            observed=observed,
            fault=fault,
            unread=unread,
            misstamped=misstamped,
            holding=holding,
            overlay=_overlay(fd, observed, path=path),
            inherited=inherited,
            likeness=_likeness(holding, found),
            named=found.named,
            foreign=holding.foreign if holding else None,
            learnt=answer.learnt,
        )

    def _observed(
        self, fd: int, *, found: Found, path: Path, stamp: Stamp | None
    ) -> _Answer:
        """Return the observation, or the disk's fault; neither if no policy is known.

        A policy for disks without a stamp is for those that are named, or found in a
        directory and look like its format.

        :param stamp: the disk's own, or the inherited one.
        """
        known = self._known.get(found.path, stamp.format if stamp else None)
        if known is not None:
            return self._seen(fd, path=path, format=known, stamped=True)
        declared = self._declared.get(found.path)
        if declared is None or not _may_be(fd, declared.format, found):
            return _Answer()
        if found.named and not declared.force:  # others: see `_may_be`
            said = existing.contradiction(fd, declared.format)
            if said is not None:
                return _Answer(fault=_unverifiable(said))
        return self._seen(fd, path=path, format=declared.format, stamped=False)

    def _seen(
        self, fd: int, *, path: Path, format: DiskFormat, stamped: bool
    ) -> _Answer:
        """Return the observation, or the disk's fault.

        :raises StorageFailed: when it can't be read.
        """
        around = self._surroundings(fd, stamped=stamped)
        try:
            if self._knowledge is None or format is not DiskFormat.QCOW2:
                look = observe.look(fd, path=path, format=format, surroundings=around)
                return _Answer(observed=look.observation)
            seen = self._knowledge.look(fd, path=path, surroundings=around)
        except ImageError as error:
            drifted = Verdict(judgement=Judgement.DRIFTED, reason=error.reason)
            return _Answer(fault=drifted)
        except TooMuchWork as error:
            return _Answer(fault=_unverifiable(error.reason))
        except MemoryError:
            return _Answer(fault=_unverifiable(_NO_MEMORY))
        return _Answer(observed=seen.observation, learnt=seen.learnt)

    def _surroundings(self, fd: int, *, stamped: bool) -> Surroundings:
        """Return them; one format is said for all disks without a stamp.

        What looks like a qcow2's header may be the content of a raw one.
        """
        device = os.fstat(fd).st_dev
        if device not in self._identities:
            self._identities[device] = mount.identify(fd), below.exception(fd)
        identity, exception = self._identities[device]
        return Surroundings(
            filesystem=identity.type,
            copy_on_write=identity.copy_on_write,
            headroom=_NO_HEADROOM,
            unwritten_beside=lambda: 0,
            reach=reaches.of(fd, trusted=self._trusted, followed=stamped),
            below=exception,
        )


def _holding(
    fd: int, *, path: Path, observed: Observation | None, stamp: Stamp | None
) -> Holding:
    """Return what the file holds, from its observation if it is a disk with a stamp.

    Where its extents are too many to be looked at, all of its storage counts as its
    own.

    :raises OSError: when it cannot be read.
    """
    try:
        if observed and stamp and observed.data_file is None:
            strategy = stamp.effective.strategy
            with contextlib.suppress(InvalidRequest):  # numbers that no image has
                return holdings.of_observed(fd, observed, strategy=strategy)
        return holdings.measure(fd, path=path)
    except TooMuchWork:
        return holdings.measure(fd, path=path, extents=False)


def _overlay(fd: int, observed: Observation | None, *, path: Path) -> Overlay | None:
    """Return the file as an overlay; where its header was just read, it isn't again."""
    known = observed is not None and observed.format is DiskFormat.QCOW2
    if known and observed is not None and observed.backing_file is None:
        return None
    return overlay.of(fd, path=path)


def _likeness(holding: Holding | None, found: Found) -> Likeness:
    """Return what a file without a stamp looks like; in a cache nothing is a disk."""
    likeness = holding.likeness if holding else Likeness.DISK
    if likeness is Likeness.DISK and found.cached:
        return Likeness.BASE
    return likeness


def _unopened(file: ImageFile, found: Found) -> Sighting:
    """Return what is seen of a file without a stamp that another process leases."""
    status = os.fstat(file.fd)
    holding = holdings.unread(status, stamped=False)
    return Sighting(
        path=file.path, inode=inode(status), likeness=_likeness(holding, found)
    )


def lost(found: Found) -> Sighting:
    """Return what is said of a file if a worker was killed while it looked at it."""
    return Sighting(path=Path(found.path), fault=_unverifiable(LOST))


def _may_be(fd: int, format: DiskFormat, found: Found) -> bool:
    """Return whether a file without a stamp passes for a disk of the format.

    The user has named the format; files in directories that don't look like it are
    passed over.
    """
    if found.named:
        return True
    if found.cached:
        return False
    if format is DiskFormat.QCOW2:
        return os.pread(fd, len(MAGIC), 0) == MAGIC
    status = os.fstat(fd)
    if likenesses.of(fd, status) is not Likeness.DISK:
        return False
    return existing.contradiction(fd, format) is None


def _unverifiable(reason: str) -> Verdict:
    return Verdict(judgement=Judgement.UNVERIFIABLE, reason=reason)


def _reason(error: ImageError | OSError) -> str:
    if isinstance(error, ImageError):
        return error.reason
    return f"cannot read it: {error.strerror}"
