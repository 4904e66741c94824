"""What attach() returned, checked, and fitted to the disk and the VM's programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from allocpolicy import (
    Allocation,
    Attachment,
    BackingFile,
    ContractBroken,
    DiskFormat,
    MappingState,
    Observation,
)
from allocpolicy.contract.policy import NOBODY_SAID, Machines, ThinIO
from allocpolicy.registry import attachment

GIB = 1 << 30
# As a plugin returned it before there were more fields.
MINIMAL = Attachment(discard="unmap", detect_zeroes="off", cache="none", io="native")
WANTED = replace(MINIMAL, discard_no_unref=True)
NEW = Machines(qemu=(8, 1), libvirt=(9, 5))

RAW = Observation(
    format=DiskFormat.RAW,
    virtual_size=GIB,
    file_size=GIB,
    actual_size=GIB,
    full_size=GIB,
    mapping=MappingState.FULL,
    allocation=Allocation.RESERVED,
    guaranteed=True,
    exception=None,
    filesystem="ext4",
    extents=None,
    direct_io_alignment=4096,
)
QCOW2 = replace(RAW, format=DiskFormat.QCOW2, cluster_size=65536, qcow2_version=3)
BASE = BackingFile(path=Path("/base"), format="raw", virtual_size=GIB)


def fitted(
    observed: Observation,
    wanted: Attachment = WANTED,
    machines: Machines = NOBODY_SAID,
) -> Attachment:
    return attachment.fitted(wanted, observed=observed, machines=machines)


@pytest.mark.parametrize("cache", ["none", "directsync"])
@pytest.mark.parametrize("io", ["native", "threads", "io_uring"])
def test_what_fits_is_kept(cache: str, io: str) -> None:
    wanted = replace(MINIMAL, cache=cache, io=io)
    assert attachment.checked(wanted) == wanted
    assert fitted(RAW, wanted) == wanted


@pytest.mark.parametrize(
    ("cache", "instead"),
    [("none", "writeback"), ("directsync", "writethrough"), ("unsafe", "unsafe")],
)
@pytest.mark.parametrize(
    "observed",
    [
        replace(RAW, direct_io_alignment=None),
        replace(RAW, file_size=GIB + 512),
        replace(QCOW2, direct_io_alignment=None),
        replace(QCOW2, backing_chain=(BASE, replace(BASE, direct_io=False))),
    ],
    ids=["no O_DIRECT", "unaligned", "qcow2", "backing file"],
)
def test_a_disk_that_does_not_open_directly_is_cached(
    observed: Observation, cache: str, instead: str
) -> None:
    """Each cache mode is replaced by the one that flushes alike."""
    found = fitted(observed, replace(MINIMAL, cache=cache, io="threads"))
    assert (found.cache, found.io) == (instead, "threads")
    assert fitted(observed).io == "threads"  # Linux AIO needs O_DIRECT


def test_a_qcow2_may_have_any_length() -> None:
    assert fitted(replace(QCOW2, file_size=GIB + 1)).cache == "none"


@pytest.mark.parametrize("allocation", Allocation)
def test_linux_aio_is_for_storage_of_its_own(allocation: Allocation) -> None:
    """It would stop the whole VM wherever a write allocates."""
    own = allocation in (Allocation.RESERVED, Allocation.WRITTEN)
    found = fitted(replace(RAW, allocation=allocation))
    assert found.io == ("native" if own else "threads")
    assert found.cache == "none"


@pytest.mark.parametrize("thin_io", ThinIO)
@pytest.mark.parametrize("allocation", Allocation)
def test_thin_disks_are_attached_as_the_operator_measured(
    allocation: Allocation, thin_io: ThinIO
) -> None:
    """Storage of its own isn't; a strategy that asks for another way gets that."""
    own = allocation in (Allocation.RESERVED, Allocation.WRITTEN)
    machines, observed = Machines(thin_io=thin_io), replace(RAW, allocation=allocation)
    assert fitted(observed, machines=machines).io == ("native" if own else thin_io)
    threads = replace(WANTED, io="threads")
    assert fitted(observed, threads, machines=machines).io == "threads"


def test_linux_aio_is_left_out_without_direct_io_whatever_was_measured() -> None:
    observed = replace(RAW, allocation=Allocation.THIN, direct_io_alignment=None)
    machines = Machines(thin_io=ThinIO.NATIVE)
    assert fitted(observed, machines=machines).io == "threads"


@pytest.mark.parametrize(
    ("machines", "known"),
    [
        (NOBODY_SAID, False),
        (Machines(qemu=(8, 1)), False),
        (Machines(libvirt=(9, 5)), False),
        (Machines(qemu=(7, 2), libvirt=(9, 5)), False),
        (Machines(qemu=(8, 1), libvirt=(9, 0)), False),
        (NEW, True),
        (Machines(qemu=(10, 0), libvirt=(11, 3)), True),
    ],
)
def test_new_words_are_for_those_who_know_them(machines: Machines, known: bool) -> None:
    assert fitted(QCOW2, machines=machines).discard_no_unref is known


def test_an_old_qcow2_is_not_opened_with_new_words() -> None:
    """QEMU: "discard-no-unref is only supported since qcow2 version 3"."""
    old = replace(QCOW2, qcow2_version=2)
    assert not fitted(old, machines=NEW).discard_no_unref
    assert fitted(old, machines=NEW).discard == "unmap"


def test_what_only_qcow2_has_is_not_said_of_raw() -> None:
    wanted = replace(WANTED, l2_cache_size=64 << 20)
    assert fitted(RAW, wanted, machines=NEW) == MINIMAL
    assert fitted(QCOW2, wanted).l2_cache_size == 64 << 20


def test_the_guest_discards_whole_clusters() -> None:
    """Smaller discards of a qcow2 have no effect; ignored ones need no granularity."""
    assert fitted(QCOW2).discard_granularity == 65536
    assert fitted(QCOW2, replace(MINIMAL, discard="ignore")).discard_granularity is None
    assert fitted(RAW).discard_granularity is None
    own = replace(MINIMAL, discard_granularity=1 << 20)
    assert fitted(QCOW2, own).discard_granularity == 1 << 20


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cache": "writback"}, "cache"),
        ({"discard": "on"}, "discard"),
        ({"detect_zeroes": "yes"}, "detect_zeroes"),
        ({"io": "aio"}, "io"),
        ({"io": None}, "io"),
        ({"cache": "writeback", "io": "native"}, "native"),
        ({"discard": "ignore", "detect_zeroes": "unmap"}, "detect_zeroes"),
        ({"l2_cache_size": 0}, "l2_cache_size"),
        ({"l2_cache_size": "1M"}, "l2_cache_size is '1M'"),
        ({"l2_cache_size": 1.0}, "l2_cache_size is 1.0"),
        ({"discard_no_unref": None}, "discard_no_unref is None"),
        ({"discard_granularity": 1000}, "discard_granularity"),
    ],
)
def test_what_no_vm_starts_with_is_refused(
    changed: dict[str, object], named: str
) -> None:
    wrong = replace(MINIMAL, **changed)  # type: ignore[arg-type]
    with pytest.raises(ContractBroken, match=named):
        attachment.checked(wrong)
