"""Keys that resemble ours: refused on the command line, told in flavors."""

from __future__ import annotations

import pytest

from allocpolicy.errors import ExtraSpecError
from allocpolicy.resolve import near_miss

RESEMBLING = {
    "AllocPolicy:strategy": "allocpolicy:strategy",
    "alocpolicy:strategy": "allocpolicy:strategy",
    "alloc_policy:strategy.root": "allocpolicy:strategy.root",
    "alloc-policy:space.reserve": "allocpolicy:space.reserve",
    "allocpolicies:strategy": "allocpolicy:strategy",
    "allocation_policy:strategy": "allocpolicy:strategy",
    " allocpolicy:strategy": "allocpolicy:strategy",
    "alloc policy:strategy": "allocpolicy:strategy",
    "\ufeffallocpolicy:strategy": "allocpolicy:strategy",
    "\u0430llocpolicy:strategy": "allocpolicy:strategy",  # a Cyrillic letter
    "allocpolicy\uff1astrategy": "allocpolicy:strategy",  # a full-width colon
    "allocpolicy.strategy": "allocpolicy:strategy",
    "allocpolicy/strategy": "allocpolicy:strategy",
    "allocpolicy": "allocpolicy:strategy",
    "hw:allocpolicy:strategy": "allocpolicy:strategy",
    "strategy": "allocpolicy:strategy",
    "Strategy.swap": "allocpolicy:strategy.swap",
    "stratgy": "allocpolicy:strategy",
    "space.reserve": "allocpolicy:space.reserve",
    "space:reserve": "allocpolicy:space.reserve",
    "strategy:root": "allocpolicy:strategy.root",
    "alloc:strategy": "allocpolicy:strategy",
    "polcy:strategy.swap": "allocpolicy:strategy.swap",
    "preallocate_images": "allocpolicy:strategy",
}
OTHERS = (
    *("hw:cpu_policy", "hw:cpu_thread_policy", "quota:disk_read_bytes_sec"),
    *("trait:STORAGE_DISK_SSD", "resources:DISK_GB", "os:secure_boot"),
    *("aggregate_instance_extra_specs:ssd", "capabilities:hypervisor_type"),
    *("hw_rng:allowed", "pci_passthrough:alias", "hide_hypervisor_id", "priority", ""),
    *("accel:device_profile", "allocation:ratio", "group_policy", "hw:strategy"),
)


@pytest.mark.parametrize(("key", "meant"), RESEMBLING.items())
def test_what_resembles_ours_is_told(key: str, meant: str) -> None:
    """Nothing is taken for ours; the key that was meant is named."""
    assert near_miss.meant(key) == meant
    with pytest.raises(ExtraSpecError, match=f"did you mean '{meant}'"):
        near_miss.refuse_others({key: "space"})


@pytest.mark.parametrize("key", OTHERS)
def test_what_is_others_is_theirs(key: str) -> None:
    """No word of Nova's keys; on the command line even they are refused."""
    assert near_miss.meant(key) is None
    with pytest.raises(ExtraSpecError, match="it does not begin with 'allocpolicy:'"):
        near_miss.refuse_others({key: "1"})


def test_ours_pass() -> None:
    """Their grammar is checked elsewhere."""
    near_miss.refuse_others({"allocpolicy:strategy": "space", "allocpolicy:x": ""})
    assert near_miss.meant("allocpolicy:nonsense") is None
