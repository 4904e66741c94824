"""Laws about many at once, and about a filesystem without room."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from allocpolicy import (
    Error,
    InvalidRequest,
    NotEnoughSpace,
    PromiseBroken,
    StrategyFailed,
    Unsupported,
    provision,
)
from allocpolicy.record import replace
from allocpolicy.testing.law import Broken, executed, plainly, require
from allocpolicy.testing.making import free_to_fill, new_disk
from allocpolicy.testing.subject import Place

_RACERS = 32
_DONE = "done"
_MORE = 64 << 20


@executed(
    "racers-succeed-or-are-refused",
    f"Of {_RACERS} at once each makes its disk, or is refused in one line; nothing"
    " else is left.",
    where=plainly,
)
def racers_succeed_or_are_refused(place: Place) -> None:
    before = set(place.directory.rglob("*"))
    new_disk(place)
    place.disk.unlink()
    disks = [place.disk.with_name(f"disk-{number}") for number in range(_RACERS)]
    told = _raced([_making(place, disk) for disk in disks])
    for disk, (done, said) in zip(disks, told, strict=True):
        require(done or disk not in place.directory.iterdir(), f"{said}; it is there")
        require(done == disk.exists(), f"it says it made {disk.name}, which is gone")
    refused = Counter(said for done, said in told if not done)
    wrong = [said for said in refused if said.startswith("!") or "\n" in said]
    require(not wrong, f"a racer fails: {wrong[:1]}")
    made = {disk.stat().st_ino for disk in disks if disk.exists()}
    require(len(made) == sum(done for done, _ in told), "two racers got one file")
    left = set(place.directory.rglob("*")) - before - set(disks)
    require(not left, f"they leave {sorted(one.name for one in left)[:3]}")


def _making(place: Place, disk: Path) -> Callable[[], str]:
    """Return a function that makes a disk, and returns `_DONE` or why it is refused.

    What is no refusal begins with ``!``.
    """

    def make() -> str:
        try:
            provision(replace(place.order(), destination=disk), policy=place.policy)
        except (InvalidRequest, Unsupported, NotEnoughSpace) as refusal:
            return str(refusal) or "!nothing is said"
        except BaseException as error:  # noqa: BLE001  (whatever its code raises)
            return f"!{type(error).__name__}: {error}"
        return _DONE

    return make


def _raced(works: list[Callable[[], str]]) -> list[tuple[bool, str]]:
    """Do all at once, each in a process of its own; return what each one said."""
    gate, start = os.pipe()
    racers = [_racer(work, gate=gate, start=start) for work in works]
    os.close(gate)
    os.close(start)  # all begin
    return [_said(answer, child) for answer, child in racers]


def _racer(work: Callable[[], str], *, gate: int, start: int) -> tuple[int, int]:
    """Return where a racer will write what it says, and the racer."""
    answer, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(start)
            os.read(gate, 1)
            os.write(into, work().encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(into)
    return answer, child


def _said(answer: int, child: int) -> tuple[bool, str]:
    with open(answer, "rb") as file:
        content = file.read()
    os.waitpid(child, 0)
    said = content.decode() if content else "!it died"
    return said == _DONE, said


@executed(
    "no-room-leaves-nothing",
    "A disk larger than the free space is thin, or refused, and nothing is left of it.",
    where=plainly,
)
def no_room_leaves_nothing(place: Place) -> None:
    free = free_to_fill(place)
    size = (free + _MORE) // _MORE * _MORE + _MORE
    before = set(place.directory.rglob("*"))
    try:
        new_disk(place, virtual_size=size)
    except NotEnoughSpace as refusal:
        require(len(str(refusal).splitlines()) == 1, f"it refuses: {refusal}")
    except (StrategyFailed, PromiseBroken) as error:
        told = f"a disk of {size} bytes, {free} are free: {error}"
        raise Broken(told) from error
    except Error:
        place.disk.unlink(missing_ok=True)
        raise
    place.disk.unlink(missing_ok=True)
    left = set(place.directory.rglob("*")) - before
    require(not left, f"it leaves {sorted(one.name for one in left)[:3]}")
