"""What importing a strategy costs, beyond allocpolicy itself: measured by a process."""

from __future__ import annotations

import json
import subprocess
import sys

from allocpolicy.registry.entry_points import Found
from allocpolicy.testing.law import require

LIMIT = 100  # ms, without those in which others had the processor
TRIES = 5  # the best one counts

_CODE = """
import importlib, json, runpy, sys, time
path, module, file = json.loads(sys.argv[1])
sys.path[:] = path
import allocpolicy
for name in allocpolicy.__all__:
    getattr(allocpolicy, name)
def waited():
    # proc(5): ns on the processor, ns of waiting for it; a sleep is neither
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1])
def spent():
    # whoever waits between the two figures has them of different moments
    while True:
        before, now = waited(), time.perf_counter_ns()
        if waited() == before:
            return now - before
before = spent()
runpy.run_path(file) if file else importlib.import_module(module)
sys.stdout = sys.__stdout__
print(f"\\n{spent() - before}")
"""


def import_cost(found: Found) -> int:
    """Return the least milliseconds that importing it took; a sleep counts.

    It is tried again, up to `TRIES` times, while it takes longer than `LIMIT`, or a
    process ends before it has measured anything: then it lacked memory, or was killed,
    or files of a package were just being replaced. On a busy machine that lasts long.

    :raises Broken: when every process ends so, with the last line of the last one.
    """
    module = found.target.partition(":")[0]
    told = json.dumps([sys.path, module, file_of(found)])
    costs, last = [], ""
    for _ in range(TRIES):
        done = _tried(told)
        if done.returncode:
            last = failure(done)
            continue
        costs.append(int(done.stdout.split()[-1]) // 1_000_000)
        if costs[-1] < LIMIT:
            break
    require(costs, f"it can't be imported in a process of its own: {last}")
    return min(costs)


def failure(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the last line of what a process said that failed, or how it ended."""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"it ended with status {done.returncode}"


def file_of(found: Found) -> str | None:
    """Return the file of a strategy that ``--plugin`` brought, which is on no path."""
    if found.version != "file":
        return None
    module = sys.modules[found.target.partition(":")[0]]
    return module.__file__


def _tried(told: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", _CODE, told]
    return subprocess.run(command, capture_output=True, check=False)
