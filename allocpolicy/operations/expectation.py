"""Disks that must exist and have their policy: what is missing is a finding."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.errors import ImageError
from allocpolicy.images import image_file
from allocpolicy.observe.sighting import Sighting
from allocpolicy.record import dataclass, replace
from allocpolicy.report.audit import Finding, Remark, Row
from allocpolicy.storage import directories


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """The expected disks that are there, by their real paths, and the others' rows.

    A disk's strategy is None where any will do. ``unread``: whether they are there
    isn't known.
    """

    disks: Mapping[Path, str | None]
    missing: tuple[Row, ...]
    unread: tuple[Row, ...]


def look(expected: Mapping[Path, str | None]) -> Expectations:
    """Return which of the expected disks are there; none is opened."""
    disks, missing, unread = {}, [], []
    for path, strategy in expected.items():
        try:
            resolved = image_file.resolve(path)
            mode = os.stat(resolved).st_mode
        except (ImageError, OSError) as error:
            if image_file.is_absent(error):
                missing.append(_missing(path, strategy, "and there is no such file"))
            else:
                unread.append(_unread(path, strategy, error))
            continue
        if stat.S_ISREG(mode):
            disks[resolved] = strategy
        else:
            said = f"and is {image_file.kind(mode)}"
            missing.append(_missing(path, strategy, said))
    return Expectations(disks=disks, missing=tuple(missing), unread=tuple(unread))


def judged(
    rows: Iterable[tuple[Sighting, Row]], *, expected: Expectations
) -> Iterator[tuple[Sighting, Row]]:
    """Yield the rows; an expected disk without its policy has drifted."""
    for seen, row in rows:
        said = None
        if row.disk in expected.disks and seen.inode is not None:
            said = _lack(seen, strategy=expected.disks[row.disk])
        if said is not None:
            reason = f"it is expected {said}; {row.verdict.reason}"
            verdict = Verdict(judgement=Judgement.DRIFTED, reason=reason)
            row = replace(row, verdict=verdict)  # noqa: PLW2901
        yield seen, row


def vanished(seen: Iterable[Sighting], *, expected: Expectations) -> Iterator[Row]:
    """Yield the rows of expected disks that were removed before they were opened."""
    found = {one.path for one in seen}
    for path, strategy in expected.disks.items():
        if path not in found:
            yield _missing(path, strategy, "and was removed meanwhile")


def _lack(seen: Sighting, *, strategy: str | None) -> str | None:
    """Return what an expected disk, which was opened, lacks, in words, or None."""
    if seen.stamp is None:
        return "to have a stamp, and has none that is valid"
    effective = seen.stamp.effective.strategy
    if strategy is not None and effective != strategy:
        return f"to have strategy {strategy}, and has {effective}"
    return None


def _missing(path: Path, strategy: str | None, said: str) -> Row:
    finding = Finding(judgement=Remark.MISSING, reason=f"it is expected, {said}")
    return Row(disk=directories.absolute(path), strategy=strategy, verdict=finding)


def _unread(path: Path, strategy: str | None, error: ImageError | OSError) -> Row:
    why = error.reason if isinstance(error, ImageError) else image_file.why(error)
    finding = Finding(judgement=Remark.UNREADABLE, reason=f"it is expected; {why}")
    return Row(disk=directories.absolute(path), strategy=strategy, verdict=finding)
