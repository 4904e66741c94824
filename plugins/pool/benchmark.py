"""How long a disk takes: handed out by pool, filled with zeroes, or thin, side by side.

    python benchmark.py DIR [SIZE]

Medians of the time in process, in milliseconds, and how many times that of pool it is.
All disks are made in DIR, synced and measured, one strategy after another.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from allocpolicy import DiskFormat, Order, Policy, Progress, provision
from allocpolicy_pool import filling, size
from allocpolicy_pool.ready import Kind

ROUNDS = 15
RIVALS = {
    "pool": {"strategy": "pool"},
    "space zero-fill": {"strategy": "space", "space.reserve": "zero-fill"},
    "space fallocate": {"strategy": "space"},
    "none": {"strategy": "none"},
}


def unwatched(description: str) -> Progress:
    """Show no progress."""
    return lambda *, done, total: None


def made(directory: Path, kind: Kind, specs: dict[str, str], policy: Policy) -> float:
    """Make a disk, remove it, and return the seconds that it took to make."""
    order = Order(
        destination=directory / "disk",
        virtual_size=kind.virtual_size,
        format=kind.format,
        extra_specs={f"allocpolicy:{name}": value for name, value in specs.items()},
    )
    elapsed = provision(order, policy=policy).elapsed
    order.destination.unlink()
    return elapsed


def measure(directory: Path, kind: Kind, say: Callable[[str], object]) -> None:
    """Say the median of each rival."""
    policy = Policy(lock_path=directory, configured=False)
    fill = filling.fill(
        directory, kind=kind, count=ROUNDS + 1, policy=policy, watch=unwatched
    )
    say(f"{kind.format}: {len(list(fill))} disks of {kind.virtual_size} bytes")
    medians = {}
    for name, specs in RIVALS.items():
        made(directory, kind, specs, policy)  # imports, once
        times = [made(directory, kind, specs, policy) for _ in range(ROUNDS)]
        medians[name] = statistics.median(times)
        ratio = medians[name] / medians["pool"]
        say(f"  {name:16}{medians[name] * 1000:10.2f} ms{ratio:8.1f}")


def main() -> None:
    """Measure both formats in a new directory below the one that is named."""
    where, virtual_size = Path(sys.argv[1]), size.parse((*sys.argv, "256M")[2])
    directory = Path(tempfile.mkdtemp(dir=where))
    try:
        for format in DiskFormat:
            kind = Kind(virtual_size=virtual_size, format=format)
            measure(directory, kind, print)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
