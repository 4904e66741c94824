"""One piece of work, from request to publication, and its outcome."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.facts import Facts, Host, Observation
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Attachment, Request, Verdict
from allocpolicy.errors import InvalidRequest, StrategyFailed
from allocpolicy.fields import fit_fields
from allocpolicy.images.stamp import Stamp
from allocpolicy.progress import Watcher
from allocpolicy.record import dataclass, field
from allocpolicy.resolve.selection import Selection
from allocpolicy.storage import temporary
from allocpolicy.storage.directories import Directory

_MODE_BITS = 0o7777
_NO_ID = (1 << 32) - 1  # chown(2): leave the ID as it is

if TYPE_CHECKING:
    from allocpolicy.execute.foreseen import Rehearsal
    from allocpolicy.execute.hold import Hold
    from allocpolicy.execute.rewrite_limits import RewriteLimits


def unnoticed() -> None:
    """Take no note of it that work begins, or that a disk gets its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may use the finished file: mode bits, and (uid, gid); None for our own."""

    mode: int = temporary.PRIVATE  #: the mode bits
    owner: tuple[int, int] | None = None  #: (uid, gid); None: our own

    def __post_init__(self) -> None:
        fit_fields(self)
        if not 0 <= self.mode <= _MODE_BITS:
            given = oct(self.mode) if self.mode > 0 else self.mode
            raise InvalidRequest(f"Access.mode is {given}: give bits such as 0o640")
        if self.owner and not all(0 <= one < _NO_ID for one in self.owner):
            raise InvalidRequest(f"Access.owner is {self.owner}: give (uid, gid)")

    @classmethod
    def of_file(cls, fd: int) -> Access:
        """Return the mode of an open file; its owner is carried over separately."""
        return cls(mode=stat.S_IMODE(os.fstat(fd).st_mode))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked for, what is known, and under which selection the work is done.

    ``current`` is the existing disk as it was observed, None for a new one.
    ``directory`` is the disk's, open. ``selection`` is ``requested``, or the fallback
    that is tried instead. ``disk`` is the existing disk, None for a new one. With
    ``dry_run`` nothing is done, and the ``rehearsal`` knows what would have been done
    before. The file of a ``trial`` never gets a name; that of a job that ``prepares``
    gets one in the image cache.
    ``has_turn``: we already hold the filesystem's lock; ``admitted`` is the plan that
    was admitted together with those of other disks; ``locks`` are those that we hold of
    the ones that strategies name. ``limits``: how far an existing disk may be
    rewritten, and ``until`` when, by the monotonic clock. ``attached``: its policy is
    in a VM's definition, and a stamp only its record. ``remark`` is for the report, and
    so are ``notes``, which are made while the work is done. ``publishes`` is called
    before a new disk gets its name. ``tried_ahead`` is of one that is like others to
    come: the recipes by which this process tried to have a disk prepared ahead of them.
    """

    request: Request
    facts: Facts
    current: Observation | None = None
    directory: Directory
    requested: Selection
    selection: Selection
    policy: Policy
    access: Access
    watch: Watcher
    disk: Hold | None = None
    dry_run: bool = False
    rehearsal: Rehearsal | None = None
    trial: bool = False
    prepares: bool = False
    has_turn: bool = False
    admitted: Plan | None = None
    locks: frozenset[str] = frozenset()
    limits: RewriteLimits | None = None
    until: float | None = None
    attached: bool = False
    remark: str = ""
    notes: list[str] = field(default_factory=list)
    begins: Callable[[], None] = unnoticed
    publishes: Callable[[], object] = unnoticed
    tried_ahead: set[str] | None = None

    @property
    def host(self) -> Host:
        """Return the facts of the directory that the disk is in."""
        return self.facts.host

    def failure(self, reason: str, *, hook: str = "") -> StrategyFailed:
        """Return that the strategy under which the work is done is at fault.

        :param hook: the method that is to blame, if it is one.
        """
        found = self.selection.loaded.found
        return StrategyFailed(found.name, str(found), hook, reason)

    @property
    def stamp(self) -> Stamp:
        """Return what is recorded on the disk."""
        return Stamp(
            requested=self.requested.choice,
            effective=self.selection.choice,
            format=self.request.format,
            asked=self.requested.asked,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The finished disk: measured, judged, and what could be recorded on it.

    ``cloned``: the prepared disk that it is a clone of; None: its steps made it.
    ``prepared``: where it is kept, if the job prepares.
    """

    observation: Observation
    verdict: Verdict
    attachment: Attachment
    stamp: Stamp | None
    cloned: Path | None = None
    prepared: Path | None = None
