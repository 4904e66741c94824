"""Preparing a disk: a finished one is kept in the image cache, to be cloned.

What is kept is made in an unnamed file and checked there; it gets its name complete and
synced. A kill before that leaves nothing. One that comes before the record is written
leaves a file that nobody believes, which whoever prepares the disk next replaces.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import (
    DestinationExists,
    Error,
    ImageError,
    NotEnoughSpace,
    Unsupported,
)
from allocpolicy.execute.job import Job
from allocpolicy.execute.recipe import Recipe
from allocpolicy.image_cache import (
    entry,
    guest_data,
    home,
    origin,
    packed_copy,
    prepared,
    prepared_entries,
    prepared_record,
)
from allocpolicy.image_cache.guest_data import Disk
from allocpolicy.image_cache.home import Cache, Home
from allocpolicy.image_cache.prepared import Prepared
from allocpolicy.image_cache.prepared_record import Record
from allocpolicy.log import telling
from allocpolicy.observe import account
from allocpolicy.qcow2 import survey
from allocpolicy.qcow2.header import Header, read_header
from allocpolicy.qcow2.survey import Survey
from allocpolicy.record import dataclass
from allocpolicy.registry import call
from allocpolicy.storage import (
    budget,
    directories,
    extent_size,
    reflink,
    staging,
    unchanged,
)
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import explained
from allocpolicy.storage.staging import Staged

# No VM reads it, and nobody is to read in it what its base image doesn't let him read.
_OURS_ALONE = 0o400
_WHAT = "keep a prepared disk"
_REFUSALS = (NotEnoughSpace, Unsupported)  # no faults: disks are made by their steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is to be prepared: the recipe, and the finished disk that has its content.

    ``disks`` is the directory of the disks; ``steps`` are what made it, in words.
    """

    recipe: Recipe
    disks: Directory
    policy: Policy
    virtual_size: int
    format: DiskFormat
    steps: tuple[str, ...]


def preparation(plan: Plan, job: Job, recipe: Recipe) -> Preparation:
    """Return what is to be prepared when a job's plan was carried out."""
    return Preparation(
        recipe=recipe,
        disks=job.directory,
        policy=job.policy,
        virtual_size=job.request.virtual_size,
        format=job.request.format,
        steps=call.describe(job.selection.loaded, plan=plan),
    )


def prepare(wanted: Preparation, *, disk: int) -> Path:
    """Keep what an open finished disk holds, unless it is there; return its path.

    The caller holds the recipe's lock (`recipe.lock`).

    :raises NotEnoughSpace: when that would take what others need.
    :raises Unsupported: when the image cache can't share blocks with the disk.
    :raises InvalidRequest: when nobody could believe what is in the image cache.
    """
    configured, name = wanted.policy.image_cache_dir, wanted.recipe.name
    with prepared.found(name, disks=wanted.disks, configured=configured) as found:
        if found is not None:
            return found.path
    with (
        prepared.place(wanted.disks, configured=configured) as place,
        telling.changing(
            "cache add", file=place.path / name, refusals=_REFUSALS
        ) as done,
    ):
        _make(place, disk=disk)
        with home.opened(place) as cache:
            if cache is None:
                raise Error(f"image cache {place.path}: it vanished; try again")
            status = _prepared(wanted, cache, disk=disk)
            done(_state(wanted, status))
            prepared_entries.sweep(cache, roots=_roots(wanted))
            return cache.path / name


def _make(place: Home, *, disk: int) -> None:
    """Make the image cache, unless it is there, or nothing could be shared with it.

    :raises Unsupported: for want of reflink.
    """
    with home.opened(place) as cache:
        if cache is None:
            with staging.create(place.above) as tried:
                _share(tried, disk=disk)
    home.make_directory(place.above, place.name)


def _state(wanted: Preparation, status: os.stat_result) -> dict[str, object]:
    return {
        "format": str(wanted.format),
        "virtual_size": wanted.virtual_size,
        "actual_size": status.st_blocks * 512,
    }


def _prepared(wanted: Preparation, cache: Cache, *, disk: int) -> os.stat_result:
    name, path = wanted.recipe.name, cache.path
    with (
        staging.create(cache.directory) as staged,
        explained(fd=staged.directory_fd, path=path, needed=0, action=_WHAT),
    ):
        _refuse_if_short(wanted, staged, disk=disk)
        _fill(wanted, staged, cache, disk=disk)
        tables = _checked(wanted, staged, disk=disk)
        entry.mark(staged.fd, cache=cache, name=name, source=_source(wanted))
        with contextlib.suppress(OSError):  # long paths may have no room there
            origin.record(staged.fd, wanted.recipe.images)
        os.fchmod(staged.fd, _OURS_ALONE)
        os.fsync(staged.fd)
        with _room(wanted, cache, needed=os.fstat(staged.fd).st_blocks * 512):
            _publish(staged, name, cache=cache)
            record = Record(
                file=unchanged.state(staged.fd),
                virtual_size=wanted.virtual_size,
                steps=wanted.steps,
                tables=tables,
            )
            prepared_record.write(cache, name, record)
        return os.fstat(staged.fd)


@contextlib.contextmanager
def _room(wanted: Preparation, cache: Cache, *, needed: int) -> Iterator[None]:
    """Make room among other prepared disks, of which there may be a limited amount.

    :raises NotEnoughSpace: when there isn't enough.
    """
    policy = wanted.policy
    most = policy.prepared_disks.max_bytes
    with prepared_entries.room(
        cache,
        needed=needed,
        most=most,
        lock_path=policy.lock_path,
        roots=_roots(wanted),
    ) as fits:
        if not fits:
            assert most is not None
            reason = "prepared_disks allows no more"
            raise NotEnoughSpace(cache.path, needed, most, reason)
        yield


def _roots(wanted: Preparation) -> tuple[Path, ...]:
    """Return where overlays may be that somebody made on a prepared disk."""
    return () if wanted.policy.image_cache_dir else (wanted.disks.path,)


def _source(wanted: Preparation) -> Path | None:
    images = wanted.recipe.images
    return images[-1].path if images else None


def _fill(wanted: Preparation, staged: Staged, cache: Cache, *, disk: int) -> None:
    """Fill the file with what the finished disk holds, packed if that is possible.

    What another author's step made may be of a kind that nobody packs.
    """
    _share(staged, disk=disk)
    path = staged.directory / wanted.recipe.name
    try:
        source = guest_data.disk(
            disk, path=path, format=wanted.format, size=wanted.virtual_size
        )
    except ImageError:
        return
    with prepared.of_images(cache, wanted.recipe.images) as others:
        like = [_as_disk(one, wanted) for one in others]
        packed_copy.write(source, staged.fd, like=like, advance=_unheard)
    if not _is_like(staged.fd, disk, wanted=wanted, path=path):
        os.ftruncate(staged.fd, 0)
        _share(staged, disk=disk)


def _share(staged: Staged, *, disk: int) -> None:
    """Let an empty file share all of the finished disk.

    :raises Unsupported: where that can't be.
    """
    extent_size.carry(disk, staged.fd)
    if not reflink.clone(disk, staged.fd):
        reason = (
            f"{_WHAT}: it can share no blocks with the disks (reflink, on one"
            " filesystem); provision makes them by their steps"
        )
        raise Unsupported(staged.directory, reason)


def _unheard(count: int) -> None: ...


def _as_disk(one: Prepared, wanted: Preparation) -> Disk:
    return guest_data.disk(
        one.fd, path=one.path, format=one.format, size=one.record.virtual_size
    )


def _is_like(made: int, disk: int, *, wanted: Preparation, path: Path) -> bool:
    """Return whether a packed qcow2 has all that the finished disk's header says."""
    if wanted.format is DiskFormat.RAW:
        return True
    one, two = (_properties(read_header(fd, path=path)) for fd in (made, disk))
    return one == two


def _properties(header: Header) -> tuple[object, ...]:
    return (
        *(header.version, header.virtual_size, header.cluster_size),
        *(header.refcount_bits, header.incompatible, header.compatible),
        *(header.autoclear, header.backing_file, header.snapshots),
    )


def _checked(wanted: Preparation, staged: Staged, *, disk: int) -> Survey | None:
    """Return what the tables say of what was made: the same as the finished disk's.

    :raises ImageError: when they are not consistent.
    :raises Error: when they say something else.
    """
    if wanted.format is DiskFormat.RAW:
        return None
    path = staged.directory / wanted.recipe.name
    made, before = survey.of(staged.fd, path=path), survey.of(disk, path=path)
    if (made.mapped, made.counted) != (before.mapped, before.counted):
        raise Error(f"{path}: what was made isn't mapped as the disk is; not kept")
    return made


def _publish(staged: Staged, name: str, *, cache: Cache) -> None:
    """Give it its name; what has that, and isn't believed, is removed."""
    with contextlib.suppress(FileNotFoundError), _unused(cache, name) as status:
        prepared.remove(cache, name, file=status)
    try:
        staged.publish(name)
    except DestinationExists as error:
        reason = "another process has it open; it is prepared later"
        raise Error(f"{error.path}: {reason}") from error
    directories.sync(cache.directory)


@contextlib.contextmanager
def _unused(cache: Cache, name: str) -> Iterator[os.stat_result]:
    """Hold what has the name.

    :raises FileNotFoundError: when nothing has it, or somebody uses it.
    """
    with entry.held_alone(cache, name) as held:
        if held.user is not None:
            raise FileNotFoundError(name)
        yield held.status


def _refuse_if_short(wanted: Preparation, staged: Staged, *, disk: int) -> None:
    """Leave what others need: the host, and disks whose storage is not written yet.

    :raises NotEnoughSpace: when less would be free, if all of the disk were copied.
    """
    policy, needed = wanted.policy, os.fstat(disk).st_blocks * 512
    reserved = account.take(wanted.disks.path, policy=policy).unwritten
    needed += policy.limits.reserved_host_disk + policy.headroom.bytes_for(reserved)
    free = budget.space_of(staged.directory_fd).free
    if free < needed:
        raise NotEnoughSpace(staged.directory, needed, free, _WHAT)
