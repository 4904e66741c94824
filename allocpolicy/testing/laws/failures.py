"""Laws about work that is interrupted between any two steps: nothing is left of it."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from allocpolicy import Error, PlanError, Progress, Unsupported, provision
from allocpolicy.testing.law import NotApplicable, at_its_edges, executed, require
from allocpolicy.testing.subject import Place

_STAMP = "user.allocpolicy"  # the xattr that is written after the last step


@executed(
    "a-kill-leaves-nothing",
    "SIGKILL before any step, or after the last, leaves directory and pool as before.",
    where=at_its_edges,
)
def a_kill_leaves_nothing(place: Place) -> None:
    steps = _steps(place)
    for at in range(steps + 1):
        before = _tree(place.directory)
        _in_a_child(partial(_provision, place, at=at, end=_kill))
        when = f"before step {at + 1}" if at < steps else "after the last step"
        _require_same(place, before, f"SIGKILL {when}")


@executed(
    "an-error-leaves-nothing",
    "An exception before any step leaves directory and pool as before.",
    where=at_its_edges,
)
def an_error_leaves_nothing(place: Place) -> None:
    for at in range(_steps(place)):
        before = _tree(place.directory)
        with suppress(Error):
            _provision(place, at=at, end=_fail)
        _require_same(place, before, f"an error before step {at + 1}")


def _steps(place: Place) -> int:
    """Return how many steps the disk takes; nothing is taken from a pool for it.

    :raises NotApplicable: when the strategy, or the storage, refuses this place.
    """
    order = replace(place.order(), dry_run=True)
    try:
        return len(provision(order, policy=place.policy).steps)
    except (PlanError, Unsupported) as refusal:
        raise NotApplicable(str(refusal)) from refusal


def _provision(place: Place, *, at: int, end: Callable[[], None]) -> None:
    """Make the disk, but end before the step of that number, from 0."""
    begun = 0

    def watch(description: str, /) -> Progress:
        nonlocal begun
        if begun == at:
            end()
        begun += 1
        return lambda *, done, total: None

    if end is _kill:
        sys.addaudithook(_kill_at_the_stamp)
    provision(place.order(), policy=place.policy, watch=watch)


def _kill_at_the_stamp(event: str, arguments: tuple[object, ...]) -> None:
    """End once the steps are through: an audit hook, which sees the xattr's name."""
    if event == "os.setxattr" and arguments[1] == _STAMP:
        _kill()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail() -> None:
    raise RuntimeError("the suite interrupts it")


def _in_a_child(work: Callable[[], None]) -> None:
    """Do something in a process of its own, which ends with it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    os.waitpid(child, 0)


def _require_same(place: Place, before: dict[str, str], what: str) -> None:
    after = _tree(place.directory)
    gone = [f"{name} is gone" for name in before if name not in after]
    new = [f"{name} is new" for name in after if name not in before]
    changed = [
        f"{name} is changed" for name in before if after.get(name, "") != before[name]
    ]
    told = ", ".join((*gone, *new, *(one for one in changed if not gone)))
    require(before == after, f"after {what}: {told}")


def _tree(directory: Path) -> dict[str, str]:
    """Return the files below a directory, with what is in each."""
    return {
        str(path.relative_to(directory)): _content(path)
        for path in sorted(directory.rglob("*"))
    }


def _content(path: Path) -> str:
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode):
        return oct(state.st_mode)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
