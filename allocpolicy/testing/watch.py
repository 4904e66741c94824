"""Watching what code does while it runs: I/O, and questions to clock and chance.

I/O is told by Python's audit hooks (PEP 578), the rest by `sys.setprofile`. Imports
that were put off don't count: whoever is asked first pays for them.
"""

from __future__ import annotations

import gc
import inspect
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_FAMILIES = frozenset(
    {"fcntl", "glob", "os", "shutil", "socket", "subprocess", "tempfile"}
)
_REGISTRY = "allocpolicy.registry."  # which looks after whom it calls
_IMPORTING = "<frozen importlib."
_CLOCKS_AND_CHANCE = frozenset({"time", "_socket", "_uuid", "select"})
_CHANCE: object = getattr(random.random, "__self__", None)  # all modules share it
_OF_THE_PROCESS = "posix"
_TODAY = frozenset({"now", "utcnow", "today"})
# Of names and text alone; os.path is made of the last two since Python 3.12 and 3.13.
_HARMLESS = frozenset(
    {"fspath", "fsencode", "fsdecode", "_path_normpath", "_path_splitroot_ex"}
)


class _Watch:
    """Records what Python's audit hooks report while it is on."""

    def __init__(self) -> None:
        self.seen: list[str] | None = None
        sys.addaudithook(self.hook)  # for ever: no hook can be removed

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """Note an event that means I/O."""
        if self.seen is None:
            return
        means_io = event == "open" or event.partition(".")[0] in _FAMILIES
        if means_io and not _imports(inspect.currentframe()):
            self.seen.append(f"{event}{arguments}")


_watch: list[_Watch] = []


@contextmanager
def io() -> Iterator[list[str]]:
    """Give the list in which I/O is recorded while the body runs."""
    if not _watch:
        _watch.append(_Watch())
    watch = _watch[0]
    outer, watch.seen = watch.seen, []
    try:
        yield watch.seen
    finally:
        watch.seen = outer


@contextmanager
def outside() -> Iterator[list[str]]:
    """Give the list in which questions to the outside are recorded.

    To clocks, to chance, and to the process (its environment, its IDs): what makes an
    answer differ from one moment, process or host to the next. It makes the body slow.
    """
    seen: list[str] = []

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_globals.get("__name__", "").startswith(_REGISTRY):
            return
        if event == "c_call":
            told = _of_builtin(argument)
        elif event == "call":
            told = _of_function(frame)
        else:
            return
        if told and not _imports(frame):
            seen.append(told)

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # others time it (gc.callbacks), whoever's turn it is
    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


def _of_builtin(function: object) -> str:
    """Return what a builtin function asks outside, or nothing."""
    owner = getattr(function, "__self__", None)
    name = str(getattr(function, "__name__", ""))
    module = getattr(function, "__module__", None) or getattr(owner, "__name__", "")
    if module in _CLOCKS_AND_CHANCE:
        return f"{module}.{name}"
    if owner is _CHANCE:
        return f"random.{name}"
    if module == _OF_THE_PROCESS and name not in _HARMLESS:
        return f"os.{name}"
    if name in _TODAY and getattr(owner, "__module__", "") == "datetime":
        return f"datetime.{name}"
    return ""


def _of_function(frame: FrameType) -> str:
    """Return that a function reads the environment, if it does."""
    code = frame.f_code
    if code.co_name == "__getitem__" and code.co_qualname.startswith("_Environ."):
        return "os.environ"
    return ""


def _imports(frame: FrameType | None) -> bool:
    """Return whether the code runs because a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORTING):
            return True
        frame = frame.f_back
    return False
