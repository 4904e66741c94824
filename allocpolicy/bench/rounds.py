"""Measuring layouts in turn, each round the other way round, in one directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from allocpolicy.bench import outside, place
from allocpolicy.bench.figures import WAYS, Measured, Sample, Scattered
from allocpolicy.bench.guest.programs import NoGuest
from allocpolicy.bench.inside import Guests
from allocpolicy.bench.layouts import Layout
from allocpolicy.bench.outside import Outside
from allocpolicy.bench.recipes import Ground
from allocpolicy.errors import CommandError, Error
from allocpolicy.progress import Advance
from allocpolicy.record import dataclass, replace
from allocpolicy.storage.failure import named


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A disk that is there to be measured, and what is known of it so far."""

    layout: Layout
    disk: Path
    sample: Sample


class Rounds:
    """Measures layouts, and keeps what was measured.

    ``no_guest`` is why there is no guest, or why there was none later on.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        *,
        ground: Ground,
        outside: Outside,
        guests: Guests | None,
    ) -> None:
        self._layouts = layouts
        self._ground = ground
        self._outside = outside
        self._guests = guests
        self.no_guest: str | None = None
        self._samples: dict[str, list[Sample]] = {one.name: [] for one in layouts}
        self._errors: dict[str, Error] = {}

    def measure(self, number: int, *, at_once: int, advance: Advance) -> None:
        """Measure all layouts once more, some of them at a time.

        :param number: of the round, from 0 on.
        """
        ordered = list(self._layouts)[:: -1 if number % 2 else 1]
        for start in range(0, len(ordered), at_once):
            group = ordered[start : start + at_once]
            self._measure(
                [one for one in group if one.name not in self._errors], turn=number
            )
            advance(len(group))

    def rows(self) -> tuple[Measured, ...]:
        """Return what was measured.

        :raises Error: the first one's, when no layout could be.
        """
        if len(self._errors) == len(self._layouts):
            raise next(iter(self._errors.values()))
        return tuple(
            Measured(
                layout=one,
                samples=tuple(self._samples[one.name]),
                error=_said(self._errors.get(one.name)),
            )
            for one in self._layouts
        )

    def _measure(self, layouts: Sequence[Layout], *, turn: int) -> None:
        """Make disks, have dd write to them in one guest, then write outside."""
        disks: dict[str, Made] = {}
        try:
            for number, layout in enumerate(layouts):
                with self._failing(layout):
                    serial = f"d{number}"
                    disks[serial] = self._make(layout, name=serial)
            for serial, sample in self._in_guest(disks).items():
                disks[serial] = replace(disks[serial], sample=sample)
            for made in disks.values():
                if made.layout.name not in self._errors:
                    with self._failing(made.layout):
                        self._keep(made, turn=turn)
        finally:
            for number in range(len(layouts)):
                place.removed(self._ground.base.with_name(f"d{number}"))

    def _make(self, layout: Layout, *, name: str) -> Made:
        disk = self._ground.base.with_name(name)
        started = time.perf_counter()
        if layout.recipe is None:
            rate = outside.write_file(disk, size=self._outside.regions.size)
            return Made(layout=layout, disk=disk, sample=Sample(dd_rate=rate))
        layout.recipe.make(disk, ground=self._ground)
        seconds = time.perf_counter() - started
        return Made(layout=layout, disk=disk, sample=Sample(make_seconds=seconds))

    def _in_guest(self, disks: Mapping[str, Made]) -> dict[str, Sample]:
        """Return the samples of the disks that a guest wrote to, by serial number."""
        attached = {
            serial: made
            for serial, made in disks.items()
            if made.layout.recipe is not None
        }
        if self._guests is None or not attached:
            return {}
        try:
            told = self._guests.rates(
                {serial: (one.layout, one.disk) for serial, one in attached.items()},
                regions=self._outside.regions,
                direct=self._outside.direct,
            )
        except NoGuest as error:
            self._guests, self.no_guest = None, str(error)
            return {}
        samples = {}
        for serial, made in attached.items():
            with self._failing(made.layout):
                rate = _rate(told.get(serial, "it said nothing"))
                samples[serial] = replace(made.sample, dd_rate=rate)
        return samples

    def _keep(self, made: Made, *, turn: int) -> None:
        """Measure a disk outside, and keep what was measured of it."""
        sample = made.sample
        if made.layout.recipe is not None:
            ways = outside.ways(direct=self._outside.direct)
            first = turn % len(ways)
            sample = replace(
                sample,
                scattered=self._scattered(made, (*ways[first:], *ways[:first])),
                sequential_rate=self._outside.sequential(made.layout, made.disk),
            )
        self._samples[made.layout.name].append(sample)

    def _scattered(self, made: Made, ways: Sequence[str]) -> dict[str, Scattered]:
        """Return what each way of I/O does, in a part of the disk for each.

        A way that QEMU or the kernel hasn't is left out; QEMU's default works or fails.
        """
        found = {}
        for part, way in enumerate(ways):
            try:
                found[way] = self._outside.scattered(
                    made.layout, made.disk, way=way, part=part
                )
            except CommandError:
                if way == WAYS[0]:
                    raise
        return found

    @contextmanager
    def _failing(self, layout: Layout) -> Iterator[None]:
        """Have a layout that fails say why, and be left alone from then on."""
        try:
            with named(self._ground.base.parent, action=f"measure {layout.name}"):
                yield
        except Error as error:
            self._errors[layout.name] = error


def _rate(told: float | str) -> float:
    """Return the rate that a guest told.

    :raises Error: when dd failed.
    """
    if isinstance(told, str):
        raise Error(f"dd failed in the guest: {told}")
    return told


def _said(error: Error | None) -> str | None:
    return None if error is None else str(error)
