"""How far an existing disk may be rewritten, as whoever asks for its change says.

A rewrite gives the disk another file, and may copy all of it. Who starts a VM knows
what the disk's file doesn't show: that another host has it, or how long the start may
take. What is done in place has no such limits, except that zeroes aren't written for
longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.arguments import Size, StrPath
from allocpolicy.contract.facts import BaseImage, Facts
from allocpolicy.contract.plan import Mode, Plan, Step
from allocpolicy.errors import BeyondLimits
from allocpolicy.fields import fit_fields
from allocpolicy.images import stamp as stamps
from allocpolicy.record import dataclass
from allocpolicy.wording import apart, printable

_NOT_ALLOWED = "nothing is to be rewritten"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteLimits:
    """How far a disk may be rewritten; by default, as its policy needs it."""

    allowed: bool = True  #: whether it may be at all
    obstacle: str | None = None  #: why it may not be, known to the caller alone
    #: why only a disk that maps nothing may be, which nobody can have written to
    blank_only: str | None = None
    #: why only a disk without an image below it may be, whatever its header names
    standalone_only: str | None = None
    #: the most bytes that may be copied instead of shared; None: any
    copied_bytes: Size | None = None
    #: where, at any depth, the one image must be that may be below the disk; None: any
    #: chain may be copied into it
    base_directories: tuple[Path, ...] | None = None
    #: from the beginning of the work, after which the disk stays as it is, but for
    #: zeroes that were written into its unused storage until then; None: any
    seconds: float | None = None
    if TYPE_CHECKING:  # what is taken, and made what the fields say

        def __init__(
            self,
            *,
            allowed: bool = ...,
            obstacle: str | None = ...,
            blank_only: str | None = ...,
            standalone_only: str | None = ...,
            copied_bytes: int | str | None = ...,
            base_directories: Sequence[StrPath] | None = ...,
            seconds: float | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        fit_fields(self)

    def until(self, started: float) -> float | None:
        """Return when a rewrite must be done that began then; None: whenever it is."""
        return None if self.seconds is None else started + self.seconds


def check(
    limits: RewriteLimits | None,
    plan: Plan,
    *,
    path: Path,
    facts: Facts,
) -> None:
    """Check that a plan for an existing disk rewrites no further than it may.

    :raises BeyondLimits: when it does.
    """
    if limits is None or plan.mode is not Mode.STAGED:
        return
    for reason in _excesses(limits, plan, facts=facts):
        raise BeyondLimits(path, reason)


def _excesses(limits: RewriteLimits, plan: Plan, *, facts: Facts) -> Iterator[str]:
    """Yield why the plan goes beyond the limits."""
    if not limits.allowed or limits.obstacle is not None:
        yield limits.obstacle or _NOT_ALLOWED
    known = facts.obstacle is None  # otherwise nothing of it was opened
    if limits.blank_only is not None and known and not _is_blank(facts.base):
        yield f"{limits.blank_only}, and the disk is not blank"
    if limits.standalone_only is not None and _is_overlay(facts.base):
        yield limits.standalone_only
    if limits.base_directories is not None and facts.base is not None:
        yield from _foreign_chain(facts.base, limits.base_directories)
    if limits.copied_bytes is not None:
        copied = sum(map(_copied, plan.steps))
        if copied > limits.copied_bytes:
            much, little = apart(copied, limits.copied_bytes)
            yield f"up to {much} would be copied, and {little} may be"


def _is_blank(image: BaseImage | None) -> bool:
    """Return whether a disk maps nothing: no guest wrote to it. Raw maps all."""
    if image is None:
        return False
    from allocpolicy.images import reading

    mapped = reading.runs(image, virtual_size=image.virtual_size)
    return next(mapped, None) is None


def _is_overlay(image: BaseImage | None) -> bool:
    return image is not None and len(image.layers) > 1


def _foreign_chain(image: BaseImage, directories: tuple[Path, ...]) -> Iterator[str]:
    """Yield why the images below a disk must not be copied into it."""
    below = image.layers[:-1]
    if len(below) > 1:
        named = printable(str(below[-1].path))
        yield f"{named} is below it, and is an overlay itself, as after a snapshot"
    for one in below:
        if stamps.is_visible(one.fd):
            named = printable(str(one.path))
            yield f"{named} is below it, and is a disk itself, as it has a stamp"
        if not any(one.path.is_relative_to(os.path.realpath(d)) for d in directories):
            yield f"{printable(str(one.path))} is below it, and in no base directory"


def _copied(step: Step) -> int:
    """Return the most bytes that a step copies; all, if it doesn't state them."""
    carried = getattr(step, "carries", None)
    if carried is None:
        return 0
    stated = getattr(step, "copied_bytes", None)
    return stated if isinstance(stated, int) else int(carried.data_bytes)
