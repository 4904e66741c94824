"""The conformance suite on pool: each law with a pool that is filled for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, Policy, Progress
from allocpolicy.testing import StrategyConformance
from allocpolicy_pool import filling
from allocpolicy_pool.ready import Kind

# What is ready: bytes of the disks that laws ask for, and how many of each format.
COUNTS = {1 << 20: 1, 3 << 19: 2, 5 << 19: 1, 4 << 20: 2, 8 << 20: 1}

FILESYSTEMS = os.environ.get("CONFORMANCE_FILESYSTEMS", "xfs").split(",")


def unwatched(description: str) -> Progress:
    return lambda *, done, total: None


@pytest.mark.system
class TestPool(StrategyConformance):
    """Ready-made disks are there, as many as a law needs."""

    strategy = "pool"
    filesystems = FILESYSTEMS if os.geteuid() == 0 else ()

    @contextmanager
    def set_up(self, directory: Path) -> Iterator[None]:
        """Fill a pool where the law makes its disks."""
        for size, count in COUNTS.items():
            for format in DiskFormat:
                kind = Kind(virtual_size=size, format=format)
                fill = filling.fill(
                    directory,
                    kind=kind,
                    count=count,
                    policy=Policy(configured=False),
                    watch=unwatched,
                )
                assert len(list(fill)) == count
        yield
