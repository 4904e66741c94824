"""What an issue wants, held to what this release and an earlier one did in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.measure import Record, Target, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A number that may not be exceeded, or (``least``) that must be reached."""

    number: float
    unit: str
    digits: int
    least: bool = False

    @property
    def wanted(self) -> str:
        """Return it in words."""
        return f"{'≥' if self.least else '≤'} {self.number:g}{self.unit}"

    def show(self, value: float) -> str:
        """Return what was measured in words."""
        return f"{value:,.{self.digits}f}{self.unit}"

    def reached(self, value: float) -> bool:
        """Return whether a value is on the right side of it."""
        return value >= self.number if self.least else value <= self.number


def at_most(number: float, unit: str, *, digits: int = 2) -> Limit:
    """Return a limit that may not be exceeded."""
    return Limit(number=number, unit=unit, digits=digits)


def at_least(number: float, unit: str, *, digits: int = 2) -> Limit:
    """Return a limit that must be reached."""
    return Limit(number=number, unit=unit, digits=digits, least=True)


def held(
    text: str,
    limit: Limit,
    *,
    value: Callable[[Record], float],
    ours: Record,
    before: Record | None = None,
) -> Target:
    """Hold a value of our record to the limit, beside that of the release before."""
    measured = value(ours)
    return Target(
        text=text,
        wanted=limit.wanted,
        measured=limit.show(measured),
        reached=limit.reached(measured),
        before=limit.show(value(before)) if before else "",
        times=f"{_times(before, ours):.1f}x" if before else "",
        cpu=_cpu(before, ours),
    )


def _times(before: Record, ours: Record) -> float:
    """Return how many times as long it took, or how many times as much is done."""
    return ratio(before, ours) if ours.unit == "s" else ratio(ours, before)


def _cpu(before: Record | None, ours: Record) -> str:
    texts = [record.cpu_text for record in (before, ours) if record and record.cpu]
    return " → ".join(texts)
