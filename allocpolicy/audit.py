"""Every disk of a fleet against its policy: looked at in parallel, judged here.

Workers observe; this process judges, as only it has seen all disks of a filesystem and
so knows the headroom that they want together.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from allocpolicy import observe
from allocpolicy.facts import DiskFormat, Headroom, Observation
from allocpolicy.judgement import Judge
from allocpolicy.plan import Watcher, unwatched
from allocpolicy.sighting import Observer, Sighting
from allocpolicy.stamp import Choice
from allocpolicy.storage import filesystem
from allocpolicy.storage.failure import free_bytes
from allocpolicy.strategy import Judgement, Verdict
from allocpolicy.walk import Walk, walk
from allocpolicy.workers import spread

FEW = 100  # disks that are looked at in the time that workers take to start


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The policy of disks that have no stamp, and their format."""

    choice: Choice
    format: DiskFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One disk, and how it stands to its policy.

    ``strategy`` is None where no policy is known, ``observed`` where the disk could not
    be observed.
    """

    disk: Path
    strategy: str | None
    verdict: Verdict
    observed: Observation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A filesystem that audited disks are on, in bytes.

    ``promised`` is what those disks have no storage of their own for, and may take when
    their guests write all of them.
    """

    key: str
    type: str
    size: int
    free: int
    promised: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All rows, sorted by disk, and the filesystems, sorted by key."""

    rows: tuple[Row, ...]
    filesystems: tuple[Storage, ...]

    @property
    def drifted(self) -> bool:
        """Return whether any disk has drifted."""
        return any(row.verdict.judgement is Judgement.DRIFTED for row in self.rows)


def audit(
    paths: Iterable[Path],
    *,
    given: Given | None = None,
    headroom: Headroom,
    jobs: int | None = None,
    watch: Watcher = unwatched,
) -> Audit:
    """Return how the disks at and below the paths stand to their policies.

    :param given: judges disks that have no stamp; a stamp is never overridden.
    :param jobs: how many processes look; by default as many as there are cores, and
        one where there is little to look at.
    :raises ImageError: when there is nothing at a path.
    """
    walked = walk(paths)
    seen = list(_look(walked, given=given, jobs=jobs, watch=watch))
    books = _Books(seen, walked=walked)
    judge = Judge()
    rows = [
        _judged(one, given=given, judge=judge, lack=books.lack(one, headroom=headroom))
        for one in seen
    ]
    rows += (_unlisted(path, reason) for path, reason in walked.unreadable)
    return Audit(
        rows=tuple(sorted(rows, key=lambda row: os.fspath(row.disk))),
        filesystems=tuple(books.closed()),
    )


def promised(observed: Observation) -> int:
    """Return the bytes that a disk has no storage of its own for, and may yet take."""
    found = observed.extents
    lent = max(found.shared, found.encoded) if found else 0
    return max(0, observed.full_size - max(0, observed.actual_size - lent))


def _look(
    walked: Walk, *, given: Given | None, jobs: int | None, watch: Watcher
) -> Iterator[Sighting]:
    files = walked.files
    if jobs is None:
        jobs = len(os.sched_getaffinity(0)) if len(files) > FEW else 1
    observer = Observer(unstamped=given.format if given else None)
    progress = watch("audit")
    answers = spread(files, observer, workers=jobs)
    for done, sighting in enumerate(answers, start=1):
        progress(done=done, total=len(files))
        if sighting is not None:
            yield sighting


def _judged(
    seen: Sighting, *, given: Given | None, judge: Judge, lack: str | None
) -> Row:
    """Return the row of a disk; ``lack`` is the headroom that is missing beside it."""
    choice = given.choice if given else None
    if seen.stamp:
        choice = seen.stamp.effective
    strategy, observed = choice.strategy if choice else None, seen.observed
    if observed is None or choice is None:
        assert seen.fault is not None
        return Row(disk=seen.path, strategy=strategy, verdict=seen.fault)
    if lack is not None and observed.guaranteed:
        observed = dataclasses.replace(observed, guaranteed=False, exception=lack)
    verdict = judge.verdict(choice, observed)
    return Row(disk=seen.path, strategy=strategy, verdict=verdict, observed=observed)


def _unlisted(path: str, reason: str) -> Row:
    verdict = Verdict(judgement=Judgement.UNVERIFIABLE, reason=reason)
    return Row(disk=Path(path), strategy=None, verdict=verdict)


class _Books:
    """The filesystems of the disks that were seen, by what these hold and promise."""

    def __init__(self, seen: Iterable[Sighting], *, walked: Walk) -> None:
        self._storage: dict[int, Storage] = {}  # by device; subvolumes share a key
        self._promised: dict[str, int] = defaultdict(int)
        self._unwritten: dict[str, int] = defaultdict(int)
        counted: set[tuple[int, int]] = set()
        beside: dict[Path, str] = {}
        for one in seen:
            if one.inode is None or one.inode in counted:
                continue
            counted.add(one.inode)
            if (key := self._key(one)) is None:
                continue
            if one.observed:
                self._promised[key] += promised(one.observed)
            directory = one.path.parent
            if os.fspath(directory) in walked.directories:
                self._unwritten[key] += one.unwritten
            else:
                beside[directory] = key
        for directory, key in beside.items():
            self._unwritten[key] += _unwritten_in(directory)

    def lack(self, seen: Sighting, *, headroom: Headroom) -> str | None:
        """Return the headroom that is missing on a disk's filesystem, or None."""
        storage = self._storage.get(seen.inode[0]) if seen.inode else None
        if storage is None:
            return None
        return observe.lack_of_headroom(
            headroom, unwritten=self._unwritten[storage.key], free=storage.free
        )

    def closed(self) -> Iterator[Storage]:
        """Yield each filesystem once."""
        found = {storage.key: storage for storage in self._storage.values()}
        for key in sorted(found):
            yield dataclasses.replace(found[key], promised=self._promised[key])

    def _key(self, seen: Sighting) -> str | None:
        """Return the filesystem's key; None when its directory is gone."""
        assert seen.inode is not None
        device = seen.inode[0]
        if device not in self._storage:
            with suppress(OSError):
                self._storage[device] = _storage(seen.path.parent)
        found = self._storage.get(device)
        return found.key if found else None


def _storage(directory: Path) -> Storage:
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)  # it may not be readable
    try:
        found, status = filesystem.identify(fd), os.fstatvfs(fd)
        return Storage(
            key=found.key,
            type=found.type,
            size=status.f_blocks * status.f_frsize,
            free=free_bytes(fd),
            promised=0,
        )
    finally:
        os.close(fd)


def _unwritten_in(directory: Path) -> int:
    """Return the reserved-unwritten bytes of all disks that are in a directory."""
    with suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return observe.unwritten_beside(directory, fd=fd)
        finally:
            os.close(fd)
    return 0
