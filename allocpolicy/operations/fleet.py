"""Which disks at and below some paths are to be changed, as an audit finds them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Judgement
from allocpolicy.images import stamp as stamps
from allocpolicy.operations.audit import audit
from allocpolicy.operations.given import Given
from allocpolicy.progress import Watcher, unwatched
from allocpolicy.record import dataclass, replace
from allocpolicy.report.audit import Audit, Remark, Row
from allocpolicy.resolve.disk_map import DiskMap, Entry

if TYPE_CHECKING:
    from allocpolicy.resolve.flavors import Flavor

_EMPTY = "it is a directory, and there is no disk in it"
_TO_MEND = frozenset({Judgement.DRIFTED, Remark.OUTDATED, Remark.PENDING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A disk that a change is for; or why it is left out, or can't be judged.

    ``skipped``: it has no policy, and none is given for such disks. ``failed``: it, or
    a directory, could not be read. ``stamped``: it was found in a directory and has a
    stamp, which says its format. ``entry``: what a map says of it, if it has no stamp.
    """

    disk: Path
    stamped: bool = False
    skipped: str | None = None
    failed: str | None = None
    entry: Entry | None = None


def members(
    paths: Iterable[Path],
    *,
    policy: Policy,
    given: Given | DiskMap | None = None,
    flavors: Mapping[str, Flavor] | None = None,
    drifted: bool = False,
    chain: bool = False,
    watch: Watcher = unwatched,
) -> tuple[Member, ...]:
    """Return the disks that are named, and those in directories, sorted by path.

    Base images are no disks, unless they are named.

    :param given: disks in directories without a stamp that look like its format are
        changed, too.
    :param drifted: only disks that have drifted, or are outdated or pending; none is
        skipped.
    :param chain: with drifted, also those that are uncovered.
    """
    paths = tuple(paths)
    below = tuple(path for path in paths if _is_searched(path, drifted=drifted))
    named = tuple(_named(path, given) for path in paths if path not in below)
    if not below:
        return named
    found = audit(below, policy=policy, given=given, flavors=flavors, watch=watch)
    chosen = (
        _mapped(one, given)
        for row in found.rows
        if (one := _member(row, drifted=drifted, chain=chain))
    )
    empty = () if drifted else (path for path in below if _is_empty(path, found))
    return (
        *named,
        *(Member(disk=path, failed=_EMPTY) for path in empty),
        *chosen,
    )


def _named(path: Path, given: Given | DiskMap | None) -> Member:
    if not isinstance(given, DiskMap):
        return Member(disk=path)
    return _mapped(Member(disk=path, stamped=_is_stamped(path)), given)


def _mapped(member: Member, given: Given | DiskMap | None) -> Member:
    """Return the member, with the map's entry for it if it has no stamp."""
    if not isinstance(given, DiskMap) or member.stamped or member.skipped:
        return member
    real = Path(os.path.realpath(member.disk))
    return replace(member, entry=given.entry(real))


def _is_searched(path: Path, *, drifted: bool) -> bool:
    """Return whether an audit looks at the path first.

    One that is gone, or can't be looked at, is tried, which tells.
    """
    return os.path.isdir(path) or (drifted and os.path.exists(path))


def _is_empty(directory: Path, found: Audit) -> bool:
    real = Path(os.path.realpath(directory))
    return not any(row.disk.is_relative_to(real) for row in found.rows)


def _member(row: Row, *, drifted: bool, chain: bool) -> Member | None:
    judgement = row.verdict.judgement
    if row.strategy is None:
        if judgement is Remark.NO_POLICY:
            skipped = Member(disk=row.disk, skipped=row.verdict.reason)
            return None if drifted else skipped
        return Member(disk=row.disk, failed=row.verdict.reason)
    if drifted and judgement not in _TO_MEND and not (chain and row.uncovered):
        return None
    return Member(disk=row.disk, stamped=_is_stamped(row.disk))


def _is_stamped(path: Path) -> bool:
    """Return whether a disk, or that which a link leads to, has a stamp."""
    try:
        return stamps.is_visible(os.path.realpath(path))
    except OSError:  # opening it tells
        return False
