"""Strategies of a test's own, installed for this process and those that it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

HEAD = """
import os
from allocpolicy import *
"""


def install(site: Path, module: str, source: str) -> None:
    """Install a distribution of one module; its strategies are its classes, lowercase.

    The caller puts the directory into sys.path or PYTHONPATH.
    """
    info = site / f"{module}-1.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(HEAD + source)
    (info / "METADATA").write_text(f"Name: {module}\nVersion: 1\n")
    classes = [
        line.removeprefix("class ").partition("(")[0]
        for line in source.splitlines()
        if line.startswith("class ") and line.endswith("Strategy):")
    ]
    lines = [f"{one.lower()} = {module}:{one}" for one in classes]
    (info / "entry_points.txt").write_text(
        "\n".join(["[allocpolicy.strategies]", *lines, ""])
    )


def race(works: Sequence[Callable[[], int]]) -> list[int]:
    """Do each work in a child of this process, all at once; return their statuses."""
    ready, go = os.pipe()
    pids = []
    for work in works:
        if not (pid := os.fork()):
            status = 99
            try:
                os.close(go)
                os.read(ready, 1)  # until the parent closes the other end
                status = work()
            finally:
                os._exit(status)
        pids.append(pid)
    os.close(ready)
    os.close(go)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
