"""An entry of an image cache, as it is told: what it is, and who needs it."""

from __future__ import annotations

import contextlib
import enum
from pathlib import Path

from allocpolicy.errors import ImageError
from allocpolicy.image_cache import location, origin, prepared_record, users
from allocpolicy.image_cache.entry import Held
from allocpolicy.image_cache.home import Cache
from allocpolicy.image_cache.overlays import Overlays
from allocpolicy.qcow2.header import read_header
from allocpolicy.record import dataclass
from allocpolicy.storage import unchanged
from allocpolicy.wording import printable

_OLD = "an older release converted it, perhaps wrongly"
_UNCHECKED = "it isn't what was checked when it was made"
_UNSAID = "it doesn't say what it was made from"


class Kind(enum.StrEnum):
    """What an entry is; the values are the words of listings."""

    CONVERTED = "converted"  #: a base image in another format: disks may be based on it
    PREPARED = "prepared"  #: a finished disk: others are clones of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry; ``used_by`` says who needs it, empty when nobody does.

    ``source`` is the image that it was made from, by its own word; None: it doesn't
    say. ``outdated``: why it isn't used for another disk; None: it may be.
    ``last_used``: when a disk was last cloned from a prepared one, in seconds since
    1970, to some minutes; None: that isn't known.
    """

    path: Path
    kind: Kind
    format: str
    source: str | None
    source_format: str | None
    virtual_size: int | None
    actual_size: int
    used_by: tuple[str, ...]
    outdated: str | None
    last_used: float | None = None


def converted(
    cache: Cache, name: str, seen: Overlays, *, held: Held, forget_moved: bool = False
) -> Entry:
    """Return a converted image, with the disks that need it.

    :raises InvalidRequest: when the records may be somebody else's.
    """
    found = users.users(cache, name, seen, forget_moved=forget_moved)
    if held.user is not None:
        found.add(held.user)
    return Entry(
        path=cache.path / name,
        kind=Kind.CONVERTED,
        format="raw",
        source=held.source,
        source_format=location.source_format(name),
        virtual_size=held.status.st_size,
        actual_size=held.status.st_blocks * 512,
        used_by=tuple(sorted(found)),
        outdated=_OLD if location.is_outdated(name) else None,
    )


def prepared(cache: Cache, name: str, seen: Overlays, *, held: Held) -> Entry:
    """Return a prepared disk; no disk needs it, but an overlay that somebody made.

    :param held: open.
    """
    path, format = cache.path / name, name.rpartition(".")[2]
    found = {str(disk) for disk in seen.on(path)}
    if held.user is not None:
        found.add(held.user)
    return Entry(
        path=path,
        kind=Kind.PREPARED,
        format=format,
        source=held.source,
        source_format=None,
        virtual_size=_virtual_size(held, path=path, format=format),
        actual_size=held.status.st_blocks * 512,
        used_by=tuple(sorted(found)),
        outdated=outdated(cache, name, file=held.file),
        last_used=prepared_record.last_used(cache, name),
    )


def outdated(cache: Cache, name: str, *, file: int) -> str | None:
    """Return why a prepared disk isn't used any more; None: it may be.

    :param file: its descriptor; of one of O_PATH, only its images tell.
    """
    if (changed := _changed(file)) is not None:
        return changed
    record = prepared_record.read(cache, name)
    with contextlib.suppress(OSError):
        is_it = record is not None and record.file == unchanged.state(file)
        return None if is_it else _UNCHECKED
    return None


def _changed(file: int) -> str | None:
    """Return what became of the images that it was made from; None: nothing."""
    images = origin.recorded(file)
    if images is None:
        return _UNSAID
    changed = origin.changed(images)
    return f"{printable(str(changed))} is gone, or has changed" if changed else None


def _virtual_size(held: Held, *, path: Path, format: str) -> int | None:
    """Return what the guest sees; None: it is no image, or can't be read."""
    if format != "qcow2":
        return held.status.st_size
    with contextlib.suppress(ImageError, OSError):
        return read_header(held.file, path=path).virtual_size
    return None
