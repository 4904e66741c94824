"""A directory for plugins that root runs from a file: only we, and root, change it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Its work begins, and fails.
_FAILING = """
import signal
from allocpolicy import *

class Fails:
    in_place = True
    def describe(self): return "fail"
    def run(self, target, progress):
        if ENDING:
            signal.raise_signal(ENDING)
        raise RuntimeError(LUCK)

class Failing(Strategy):
    api_version = max(API_VERSIONS)
    summary = "fails"
    def plan(self, *, request, options, facts):
        return Plan(
            mode=Mode.STAGED,
            steps=(Fails(),),
            peak_bytes=1 << 20,
            promised_bytes=1 << 20,
        )
    def amend(self, *, request, current, options, facts):
        return Plan(
            mode=Mode.IN_PLACE,
            steps=(Fails(),),
            peak_bytes=1 << 20,
            promised_bytes=current.full_size,
        )
    def verify(self, *, options, observation):
        return Verdict(judgement=Judgement.DRIFTED, reason="")
    def attach(self, *, options, observation):
        return Attachment()
"""


@contextmanager
def directory() -> Iterator[Path]:
    """Yield a new one; for root it isn't below /tmp, which is everybody's."""
    with tempfile.TemporaryDirectory(dir=None if os.geteuid() else "/run") as name:
        yield Path(name)


@contextmanager
def failing(*, ending: int = 0, luck: str = "no luck\nat all") -> Iterator[Path]:
    """Yield the file of a strategy named failing, whose work begins and fails.

    :param ending: a signal that comes instead, as by Ctrl-C or kill(1).
    :param luck: what the failure says.
    """
    with directory() as place:
        path = place / "failing.py"
        path.write_text(f"ENDING, LUCK = {int(ending), luck}\n{_FAILING}")
        yield path
