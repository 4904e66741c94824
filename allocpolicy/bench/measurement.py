"""Measuring layouts on a directory's filesystem, from a first look to the figures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.bench import ground as grounds
from allocpolicy.bench import inside, place
from allocpolicy.bench import setting as settings
from allocpolicy.bench.figures import Measured
from allocpolicy.bench.guest.programs import NoGuest
from allocpolicy.bench.inside import Guests
from allocpolicy.bench.outside import Outside
from allocpolicy.bench.rounds import Rounds
from allocpolicy.bench.setting import Setting, Wanted
from allocpolicy.progress import Watcher, counted
from allocpolicy.record import dataclass
from allocpolicy.storage import direct_io
from allocpolicy.storage.failure import named


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that was measured, in the order of the layouts, and where."""

    setting: Setting
    rows: tuple[Measured, ...]


def measure(wanted: Wanted, *, watch: Watcher) -> Result:
    """Measure the layouts; nothing of it is left in the directory.

    A layout that can't be made here says why, and the others are measured.

    :raises Error: when nothing can be measured.
    """
    qemu = settings.qemu_version(wanted.directory)
    found = settings.filesystem_of(wanted.directory)
    with place.made(wanted.directory) as room, _opened(room) as fd:
        with named(room, action="make an image for the disks"):
            ground, regions = grounds.made(
                room, size=wanted.size, image=wanted.image, policy=wanted.policy
            )
            direct = _is_direct(ground.base)
        guests, no_guest = _guests(room, wanted=wanted)
        rounds = Rounds(
            wanted.layouts,
            ground=ground,
            outside=Outside(directory=fd, regions=regions, direct=direct),
            guests=guests,
        )
        _run(rounds, wanted=wanted, watch=watch)
        setting = Setting(
            directory=wanted.directory,
            filesystem=found.type,
            kernel=settings.kernel_version(),
            qemu=qemu,
            direct=direct,
            accelerator=guests.accelerator if guests else None,
            no_guest=no_guest or rounds.no_guest,
        )
        return Result(setting=setting, rows=rounds.rows())


def _run(rounds: Rounds, *, wanted: Wanted, watch: Watcher) -> None:
    total = wanted.rounds * len(wanted.layouts)
    advance = counted(watch("measuring layouts"), total=total)
    for number in range(wanted.rounds):
        rounds.measure(number, at_once=wanted.at_once, advance=advance)


def _guests(room: Path, *, wanted: Wanted) -> tuple[Guests | None, str | None]:
    """Return what boots guests, or why there are none."""
    if not wanted.guest:
        return None, None
    try:
        return inside.guests(room, kernel=wanted.kernel), None
    except NoGuest as error:
        return None, str(error)


def _is_direct(path: Path) -> bool:
    """Return whether the page cache can be avoided, for a file with data."""
    with path.open("rb") as file:
        return direct_io.alignment(file.fileno()) is not None


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
