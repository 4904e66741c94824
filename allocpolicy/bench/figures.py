"""What was measured: the values of each layout, a sample a round, and their medians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from allocpolicy.bench.layouts import Layout
from allocpolicy.record import dataclass, field

WAYS = ("threads", "native", "io_uring")  #: of I/O, QEMU's default first


@dataclass(frozen=True, slots=True, kw_only=True)
class Scattered:
    """Scattered writes a second: the first ones, and over them again."""

    first: float
    again: float

    @property
    def mean(self) -> float:
        """The geometric mean of both."""
        return math.sqrt(self.first * self.again)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one round measured of a layout; rates are bytes a second."""

    make_seconds: float | None = None  #: until it was made, and synced
    dd_rate: float | None = None  #: of dd, in a guest; or in no VM at all
    sequential_rate: float | None = None  #: of QEMU's own writes, without a guest
    scattered: Mapping[str, Scattered] = field(default_factory=dict)  #: by way of I/O


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A layout, what each round measured of it, and why no more was."""

    layout: Layout
    samples: tuple[Sample, ...] = ()
    error: str | None = None

    def values(self, name: str) -> list[float]:
        """Return what the rounds measured of a field of `Sample`."""
        found = (getattr(one, name) for one in self.samples)
        return [one for one in found if one is not None]

    def middle(self, name: str) -> float | None:
        """Return the median of a field of `Sample`; None: nothing was measured."""
        found = self.values(name)
        return median(found) if found else None

    @property
    def by_io(self) -> dict[str, Scattered]:
        """The medians of scattered writes, for each way of I/O that worked."""
        found: dict[str, list[Scattered]] = {}
        for sample in self.samples:
            for way, one in sample.scattered.items():
                found.setdefault(way, []).append(one)
        return {
            way: Scattered(
                first=median(one.first for one in found[way]),
                again=median(one.again for one in found[way]),
            )
            for way in WAYS
            if way in found
        }
