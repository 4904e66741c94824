"""What is given of disks without a stamp: a policy and a format, or a map of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.strategy import Choice
from allocpolicy.fields import fit_fields
from allocpolicy.observe import sighting
from allocpolicy.observe.sighting import Sighting
from allocpolicy.observe.walk import Found
from allocpolicy.record import dataclass
from allocpolicy.resolve.disk_map import DiskMap

_NO_STAMP = (
    "it has no stamp: no policy is known; choose one with --strategy, and give its"
    " format with --disk-format"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The policy of disks that have no stamp, and their format."""

    choice: Choice  #: the strategy that judges them
    format: DiskFormat  #: the format that they have
    force: bool = False  #: believe that, whatever their content looks like
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self, *, choice: Choice, format: DiskFormat | str, force: bool = ...
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)


class Givens:
    """What is given of each disk without a stamp: the same of all, or by a map."""

    def __init__(self, given: Given | DiskMap | None) -> None:
        self._given = given

    def of(self, path: Path) -> Given | None:
        """Return what is given of a disk, if anything."""
        if not isinstance(self._given, DiskMap):
            return self._given
        found = self._given.entry(path)
        if found is None:
            return None
        return Given(choice=found.choice, format=found.format, force=found.force)

    def formats(self, files: Iterable[Found]) -> dict[str, sighting.Declared]:
        """Return the formats that are given, by path."""
        if self._given is None:
            return {}
        given = ((one.path, self.of(Path(one.path))) for one in files)
        return {
            path: sighting.Declared(format=one.format, force=one.force)
            for path, one in given
            if one
        }

    def choice(self, seen: Sighting) -> Choice | None:
        """Return what a disk is judged by: its stamp, or else what is given."""
        if seen.policy:
            return seen.policy.effective
        given = self.of(seen.path)
        return given.choice if given else None

    def no_policy(self, seen: Sighting) -> str:
        """Return why no policy is known of a file, and how it gets one."""
        if seen.foreign is not None:
            return (
                f"it has no stamp: its content is {seen.foreign.name}, and only qcow2"
                f" and raw disks have policies; {seen.foreign.remedy}"
            )
        given = self.of(seen.path)
        if given is not None:
            return (
                f"it has no stamp, and does not look like a {given.format} disk, which"
                " the given policy is for"
            )
        if isinstance(self._given, DiskMap):
            return f"it has no stamp, and no entry of {self._given.source} matches it"
        return _NO_STAMP
