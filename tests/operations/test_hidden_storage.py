"""Storage that hides how a file is allocated: what has it is not reserved again."""

from __future__ import annotations

import pytest

from allocpolicy import Allocation, DiskFormat, Mode
from allocpolicy.registry import call, installed
from allocpolicy.testing import change_of, facts_on, observation
from tests.harness.images import MIB


@pytest.mark.parametrize("data", ["falloc", "full"])
@pytest.mark.parametrize(("missing", "mode"), [(0, Mode.NOTHING), (MIB, Mode.IN_PLACE)])
def test_only_what_is_missing_is_a_reason_to_change_it(
    data: str, missing: int, mode: Mode
) -> None:
    seen = observation(
        DiskFormat.RAW,
        virtual_size=8 * MIB,
        allocation=Allocation.UNVERIFIABLE,
        actual_size=8 * MIB - missing,
        extents=None,
    )
    plan = call.amend(
        installed.load("performance"),
        request=change_of(seen),
        current=seen,
        options={"data": data, "cluster_size": "auto", "layout": "standalone"},
        facts=facts_on("ext4"),
    )
    assert plan.mode is mode
