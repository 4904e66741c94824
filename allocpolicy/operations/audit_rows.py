"""The rows of an audit: what is said of a disk that was seen, or could not be."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from allocpolicy.contract.facts import Allocation
from allocpolicy.contract.strategy import Choice, Judgement, Verdict
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe.sighting import Sighting
from allocpolicy.observe.unknown import Why
from allocpolicy.record import replace
from allocpolicy.registry.judge import Judge
from allocpolicy.report.audit import Finding, Remark, Row
from allocpolicy.storage.inode import Inode

_LENGTH_ALONE = (Why.DISBELIEVED, Why.FOREIGN, Why.MALFORMED, Why.UNREADABLE)
_OWN = (Allocation.RESERVED, Allocation.WRITTEN)  # what needs headroom


def row(
    seen: Sighting, *, choice: Choice | None, judge: Judge, lack: str | None
) -> Row:
    """Return a disk's row, judged by a choice; ``lack`` is the headroom it misses."""
    strategy, observed = choice.strategy if choice else None, seen.observed
    requested = seen.stamp.requested.strategy if seen.stamp else None
    if observed is None or choice is None:
        return replace(
            _fault(seen),
            strategy=strategy,
            requested=requested,
            misstamped=seen.misstamped,
        )
    if lack is not None and observed.allocation in _OWN:
        reasons = "; ".join(filter(None, (observed.exception, lack)))
        observed = replace(observed, guaranteed=False, exception=reasons)
    return Row(
        disk=seen.path,
        strategy=strategy,
        requested=requested,
        verdict=_verdict(seen, judge.verdict(choice, observed), choice, judge=judge),
        observed=observed,
    )


def sized(row: Row, seen: Sighting) -> Row:
    """Return the row with the disk's sizes, as far as anything says them.

    The length of an image of another format, or of a malformed one, is none of them.
    """
    sizes = seen.observed or seen.holding
    if sizes is None:
        return row
    unknown = seen.holding.unknown if seen.holding and not seen.observed else None
    virtual = None if unknown in _LENGTH_ALONE else sizes.virtual_size
    return replace(row, virtual_size=virtual, actual_size=sizes.actual_size)


def unlisted(path: str, reason: str) -> Row:
    """Return the row of a directory that can't be listed."""
    verdict = Finding(judgement=Remark.UNREADABLE, reason=reason)
    return Row(disk=Path(path), strategy=None, verdict=verdict)


def missing(*found: Iterable[Row]) -> Iterator[Row]:
    """Yield one row for each disk that is missing; of several, with all reasons.

    A list and the definitions of VMs may both name it.
    """
    rows: dict[Path, Row] = {}
    for one in itertools.chain(*found):
        same = rows.setdefault(one.disk, one)
        if same is not one:
            reason = f"{same.verdict.reason}; {one.verdict.reason}"
            verdict = replace(one.verdict, reason=reason)
            strategy = one.strategy or same.strategy
            rows[one.disk] = replace(one, strategy=strategy, verdict=verdict)
    yield from rows.values()


def counted(
    paths: Iterable[Path], rows: Iterable[Row], *, inodes: Mapping[Path, Inode | None]
) -> dict[Path, int]:
    """Return how many disks the rows have at and below each path.

    A disk counts once, whatever names it has: hard links, or those of a bind mount.
    """
    found = ((one.disk, inodes.get(one.disk) or one.disk) for one in rows)
    return _at_and_below(paths, found)


def aliases(rows: Sequence[Row], *, inodes: Mapping[Path, Inode | None]) -> int:
    """Return how many of the rows are of a disk that another one has as well."""
    return len(rows) - len({inodes.get(one.disk) or one.disk for one in rows})


def closed(paths: Iterable[Path], unlisted: Iterable[tuple[str, str]]) -> set[Path]:
    """Return the paths at and below which something can't be listed."""
    counts = _at_and_below(paths, ((Path(path), path) for path, _ in unlisted))
    return {path for path, count in counts.items() if count}


def _at_and_below(
    paths: Iterable[Path], found: Iterable[tuple[Path, object]]
) -> dict[Path, int]:
    """Return how many things are at and below each path, from real paths of them."""
    places = {Path(os.path.abspath(one)): Path(os.path.realpath(one)) for one in paths}
    things: dict[Path, set[object]] = {place: set() for place in places.values()}
    above: dict[Path, list[Path]] = {}  # the disks of a directory have the same
    for one, thing in found:
        parent = one.parent
        if parent not in above:
            above[parent] = [up for up in (parent, *parent.parents) if up in things]
        for place in (one, *above[parent]):
            if place in things:
                things[place].add(thing)
    return {path: len(things[place]) for path, place in places.items()}


def _fault(seen: Sighting) -> Row:
    """Return the row of a disk that wasn't observed."""
    assert seen.fault is not None
    verdict: Verdict | Finding = seen.fault
    if seen.unread:
        verdict = Finding(judgement=Remark.UNREADABLE, reason=verdict.reason)
    return Row(disk=seen.path, strategy=None, verdict=verdict)


def _verdict(
    seen: Sighting, verdict: Verdict, choice: Choice, *, judge: Judge
) -> Verdict | Finding:
    """Return the verdict; a disk that has less than its stamp requests is pending.

    Not so one that is judged by something else than its stamp.
    """
    stamp = seen.stamp
    if stamp is None or judge.is_same(stamp.requested, stamp.effective):
        return verdict
    reason = f"{verdict.reason}; {_pending(stamp)}"
    if verdict.judgement is Judgement.MEETS and choice == stamp.effective:
        return Finding(judgement=Remark.PENDING, reason=reason)
    return replace(verdict, reason=reason)


def _pending(stamp: Stamp) -> str:
    """Return what the stamp requests and the disk doesn't have yet."""
    named = stamp.requested.strategy
    if named == stamp.effective.strategy:
        named = f"{named} with other options"
    return f"{named} is requested, and not yet effective: apply it again"
