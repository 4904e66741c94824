"""Make disks by the API of whichever release of ours the interpreter has.

A program by itself, which imports nothing of this package, since it may be run for an
earlier release: a request is a line of JSON on stdin, its answer one on stdout.
"""

from __future__ import annotations

import contextlib
import cProfile
import importlib.metadata
import io
import json
import pstats
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import allocpolicy
from allocpolicy import Access, DiskFormat, Order, Policy

_PROFILED = 40  # lines of a profile


def main() -> None:
    # Whoever asks ends us by closing the pipe, also after Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(_about()), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line))
        except Exception as error:  # noqa: BLE001  told to whoever asked
            answer = {"error": str(error), "traceback": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


def _about() -> dict[str, Any]:
    return {
        "version": importlib.metadata.version("allocpolicy"),
        "place": str(Path(allocpolicy.__file__).parent),
        "prepares": hasattr(allocpolicy, "prepare"),
    }


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is asked, and return what it cost."""
    order = _order(request["order"])
    chosen = policy(Path(request["locks"]), prepared=request["prepared"])
    action = getattr(allocpolicy, request["action"])
    with _profiled(to=request.get("profile")):
        used, started = _cpu(), time.perf_counter()
        action(order, policy=chosen)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "cpu": _cpu() - used}


def _order(document: Mapping[str, Any]) -> Order:
    base = document["base"]
    return Order(
        destination=Path(document["destination"]),
        virtual_size=document["size"],
        base=Path(base) if base else None,
        base_format=document["base_format"],
        format=DiskFormat(document["format"]),
        extra_specs=document["extra_specs"],
        access=Access(),
    )


def policy(locks: Path, *, prepared: bool = False) -> Policy:
    """Return the defaults, with prepared disks or without them.

    Without, none is prepared while others are measured. A release that has no word for
    them prepares none.
    """
    options: dict[str, Any] = {"lock_path": locks, "configured": False}
    if hasattr(allocpolicy, "PreparedDisks"):
        options["prepared_disks"] = allocpolicy.PreparedDisks(enabled=prepared)
    return Policy(**options)


def _cpu() -> float:
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(one) for one in whose]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextlib.contextmanager
def _profiled(*, to: str | None) -> Iterator[None]:
    """Write which functions took the time of the body to a file."""
    if to is None:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    text = io.StringIO()
    statistics = pstats.Stats(profile, stream=text).sort_stats("cumulative")
    statistics.print_stats(_PROFILED)
    statistics.sort_stats("tottime").print_stats(_PROFILED)
    Path(to).write_text(text.getvalue())


if __name__ == "__main__":
    main()
