"""Files that look like disks and are none: base images, prepared disks, and others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from allocpolicy.image_cache import location
from allocpolicy.observe.likeness import Likeness
from allocpolicy.observe.sighting import Sighting
from allocpolicy.report.audit import Finding, Remark, Row
from allocpolicy.storage.inode import Inode

_DATA = "the external data file of another disk"
_BASE = "a base image: another image has it as its backing file"
_READ_ONLY = "a base image: nobody may write to it, or it is in an image cache"
_PREPARED = "a prepared disk: further disks are clones of it"
_ISO = "an ISO image"


def look(seen: Sequence[Sighting]) -> tuple[Row, ...]:
    """Return a row for each image without a stamp that is no disk, nor named as one."""
    return tuple(_rows(seen, bases=_bases(seen)))


def base_images(rows: Iterable[Row]) -> int:
    """Return how many of the rows are of base images."""
    return sum(row.verdict.reason in (_BASE, _READ_ONLY) for row in rows)


def data_files(rows: Iterable[Row]) -> int:
    """Return how many of the rows are of data files."""
    return sum(row.verdict.reason == _DATA for row in rows)


def prepared_disks(rows: Iterable[Row]) -> int:
    """Return how many of the rows are of prepared disks."""
    return sum(row.verdict.reason == _PREPARED for row in rows)


def _bases(seen: Sequence[Sighting]) -> set[Inode]:
    """Return the base images: backing files of others that have none themselves."""
    held = [(one.inode, one.holding) for one in seen if one.holding is not None]
    overlays = {found for found, holding in held if holding.overlay}
    return {one.backing for _, one in held if one.backing is not None} - overlays


def _rows(seen: Sequence[Sighting], *, bases: set[Inode]) -> Iterator[Row]:
    """Yield a row for each of the images.

    :param bases: those that others have as their backing files.
    """
    data = {one.holding.data for one in seen if one.holding}
    for one in seen:
        has_stamp = one.stamp or (one.holding and one.holding.stamped)  # if malformed
        if has_stamp or one.named or one.inode is None:
            continue
        said = _READ_ONLY if one.likeness is Likeness.BASE else None
        if said and location.is_prepared_name(one.path.name):
            said = _PREPARED
        if one.likeness is Likeness.ISO:
            said = _ISO
        if one.likeness is Likeness.DISK and one.inode in bases:
            said = _BASE
        elif one.likeness is Likeness.DISK and one.inode in data:
            said = _DATA
        if said is not None:
            verdict = Finding(judgement=Remark.PASSED_OVER, reason=said)
            yield Row(disk=one.path, strategy=None, verdict=verdict)
