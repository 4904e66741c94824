"""What something cost: seconds by the clock, and of CPU, children included."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds by the clock, and of CPU: user and system."""

    seconds: float
    cpu: float


class Stopwatch:
    """Runs from when it is made.

    CPU is that of this process and of its children that were waited for; or of these
    alone, where what the measuring program does between them is none of theirs.
    """

    def __init__(self, *, children_only: bool = False) -> None:
        self._whose = [resource.RUSAGE_CHILDREN]
        if not children_only:
            self._whose.append(resource.RUSAGE_SELF)
        self._cpu = self._used()
        self._started = time.perf_counter()

    def read(self) -> Cost:
        """Return what it has cost so far."""
        seconds = time.perf_counter() - self._started
        return Cost(seconds=seconds, cpu=self._used() - self._cpu)

    def _used(self) -> float:
        used = [resource.getrusage(whose) for whose in self._whose]
        return sum(one.ru_utime + one.ru_stime for one in used)
