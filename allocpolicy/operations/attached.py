"""Disks that definitions of VMs name: these say their format, and perhaps their policy.

A VM's definition is the truth, and a stamp its record: of such a disk the stamp decides
only where the definition has no policy. What a guest writes to is the disk that is
named, whatever is on top of it or below.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import ImageError
from allocpolicy.fields import fit_fields
from allocpolicy.images import image_file
from allocpolicy.images import stamp as stamps
from allocpolicy.observe.sighting import Sighting
from allocpolicy.record import dataclass, replace
from allocpolicy.report.audit import Finding, Remark, Row
from allocpolicy.storage import directories


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What a VM's definition says of a disk."""

    vm: str  #: which VM, and which of its disks, in words
    format: DiskFormat  #: the format in which the VM has it
    choice: Choice | None = None  #: the policy; None: its stamp's
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self, *, vm: str, format: DiskFormat | str, choice: Choice | None = ...
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachments:
    """Disks that are there, by their real paths, and the rows of the others."""

    disks: Mapping[Path, Attached]
    missing: tuple[Row, ...]
    unread: tuple[Row, ...] = ()  #: whether they are there isn't known

    @property
    def formats(self) -> dict[str, DiskFormat]:
        """Return the formats that VMs have them in."""
        return {str(path): one.format for path, one in self.disks.items()}

    def choice(self, path: Path) -> Choice | None:
        """Return the policy that a VM's definition has for a disk, if any."""
        found = self.disks.get(path)
        return found.choice if found else None

    def named(self, row: Row, seen: Sighting) -> Row:
        """Return a disk's row with the VM that has it, and the disk that it is on."""
        one = self.disks.get(row.disk)
        if one is None:
            return row
        below = next(_disks_below(seen), None)
        snapshot = f"it is an external snapshot of {below}" if below else ""
        reason = "; ".join(filter(None, (row.verdict.reason, snapshot, one.vm)))
        verdict = replace(row.verdict, reason=reason)
        return replace(row, verdict=verdict, uncovered=None)


def look(attached: Mapping[Path, Attached]) -> Attachments:
    """Return which of the attached disks are there; none is opened."""
    disks: dict[Path, Attached] = {}
    missing: list[Row] = []
    unread: list[Row] = []
    for path, one in attached.items():
        try:
            disks.setdefault(image_file.resolve(path), one)
        except ImageError as error:
            strategy = one.choice.strategy if one.choice else None
            reason = f"{one.vm} has it, and {error.reason}"
            gone = image_file.is_absent(error)
            judgement = Remark.MISSING if gone else Remark.UNREADABLE
            finding = Finding(judgement=judgement, reason=reason)
            row = Row(
                disk=directories.absolute(path), strategy=strategy, verdict=finding
            )
            (missing if gone else unread).append(row)
    return Attachments(disks=disks, missing=tuple(missing), unread=tuple(unread))


def _disks_below(seen: Sighting) -> Iterator[Path]:
    """Yield the disks that a disk is on: base images have no stamp."""
    for one in seen.observed.backing_chain if seen.observed else ():
        with contextlib.suppress(OSError):
            if not one.unseen and stamps.is_visible(str(one.path)):
                yield one.path
