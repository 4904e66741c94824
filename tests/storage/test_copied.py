"""A copy has a bound, if whoever asks for it sets one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.errors import BeyondLimits
from allocpolicy.storage import copied, copy, reflink
from tests.harness.images import MIB

pytestmark = pytest.mark.filesystems("xfs")


def test_no_more_is_copied_than_may_be(directory: Path) -> None:
    """What is shared doesn't count, nor do the ends of it that are no whole blocks."""
    source, target = directory / "source", directory / "target"
    source.write_bytes(os.urandom(8 * MIB + 512))
    whole = [copy.Run(source=0, target=0, length=8 * MIB + 512)]
    with source.open("rb") as read, target.open("w+b") as write:
        one, other = read.fileno(), write.fileno()
        with copied.bounded(0, path=target):
            reflink.share_runs(
                one, other, runs=whole, block_size=4096, advance=lambda _: None
            )
        os.truncate(other, 0)
        with (
            copied.bounded(4 * MIB, path=target),
            pytest.raises(BeyondLimits, match=f"{target}.* 4.0 MiB"),
        ):
            copy.copy_runs(one, other, runs=whole, advance=lambda _: None)
        assert os.fstat(other).st_size <= 5 * MIB
        copy.copy_runs(one, other, runs=whole, advance=lambda _: None)
    assert target.read_bytes() == source.read_bytes()
