"""A VM starts with every disk, attached as its report says, and keeps the promise."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, Order, PlanError, Policy, Unsupported, provision
from allocpolicy.libvirt import disk_xml
from allocpolicy.report.report import Report
from tests.harness import attached, filesystems
from tests.harness.attached import AttachedDisk
from tests.harness.cli import allocpolicy
from tests.harness.images import qemu_img

pytestmark = pytest.mark.qemu

MountPoint = Callable[[str], Path]

MIB = 1 << 20
SIZE = 4 * MIB
BASE_SIZE = MIB + 512  # no multiple of any larger alignment

CHOICES: tuple[dict[str, str], ...] = (
    {"strategy": "none"},
    {"strategy": "space"},
    {"strategy": "space", "space.reserve": "zero-fill"},
    {"strategy": "performance"},
    {"strategy": "performance", "performance.data": "falloc"},
    {"strategy": "performance", "performance.data": "full"},
    {"strategy": "performance", "performance.layout": "backed"},
    {"strategy": "partial"},
)
# ramfs says that it has no space; inspect is tried there.
STORAGE = [
    *itertools.product(("ext4", "xfs", "btrfs", "ext2"), (512, 4096)),
    ("tmpfs", None),
]


@pytest.fixture
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Give a filesystem of a kind, on a device with sectors of a size."""
    kind, sector_size = request.param
    with filesystems.mounted(
        kind, size=512 * MIB, directory=tmp_path, sector_size=sector_size
    ) as mount_point:
        yield mount_point


def orders(directory: Path, base: Path) -> Iterator[Order]:
    """Yield orders for every strategy, format and source of a size."""
    numbers = itertools.count()
    for choice, format in itertools.product(CHOICES, DiskFormat):
        specs = {f"allocpolicy:{key}": value for key, value in choice.items()}
        for size, source in ((SIZE, None), (None, base)):
            yield Order(
                destination=directory / f"disk{next(numbers)}",
                virtual_size=size,
                base=source,
                base_format="raw" if source else None,
                format=format,
                extra_specs=specs,
            )


def made(directory: Path) -> Iterator[Report]:
    """Make a disk of every strategy that this storage serves, and report on it."""
    base = directory / "base.raw"
    base.write_bytes(os.urandom(BASE_SIZE))
    for order in orders(directory, base):
        try:
            yield provision(order, policy=Policy())
        except (PlanError, Unsupported):
            continue


def attached_disk(report: Report) -> AttachedDisk:
    document = report.as_document()
    assert report.observed is not None
    return AttachedDisk(
        path=report.disk,
        format=report.observed.format,
        size=report.observed.virtual_size,
        attachment=document["attachment"],  # type: ignore[arg-type]
    )


def elements(report: Report) -> str:
    assert report.attachment is not None
    assert report.observed is not None
    return disk_xml.driver(report.attachment, observed=report.observed)


@pytest.mark.parametrize("storage", STORAGE, indirect=True, ids=str)
def test_a_vm_starts_with_every_disk(storage: Path, tmp_path: Path) -> None:
    """Whatever the strategy, the filesystem and the device's sectors."""
    reports = list(made(storage))
    served = {report.effective.strategy for report in reports}
    assert served >= {"none", "space", "performance"}
    attached.start(map(attached_disk, reports))
    document = attached.domain((report.disk, elements(report)) for report in reports)
    attached.validate(document, directory=tmp_path)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("strategy", ["none", "space"])
def test_a_raw_disk_of_a_size_that_qemu_does_not_open_is_refused(
    mount_point: MountPoint, kind: str, strategy: str
) -> None:
    """Before anything is made, and with the size to take instead."""
    disk = mount_point(kind) / f"unaligned-{strategy}"
    wanted = ("--strategy", strategy, "--size", SIZE + 512)
    finished = allocpolicy("provision", disk, "--format", "raw", *wanted)
    assert (finished.status, disk.exists()) == (2, False)
    assert "4096" in finished.stderr
    assert str(SIZE + 4096) in finished.stderr
    assert allocpolicy("provision", disk, *wanted).status == 0  # as qcow2
    disk.unlink()


def test_growing_to_such_a_size_is_refused(ext4: Path) -> None:
    disk = ext4 / "growing"
    provision(raw(disk, size=SIZE), policy=Policy())
    finished = allocpolicy("resize", disk, SIZE + 512)
    assert (finished.status, disk.stat().st_size) == (2, SIZE)
    assert "4096" in finished.stderr
    assert allocpolicy("resize", disk, SIZE + 4096).status == 0
    disk.unlink()


def raw(disk: Path, *, size: int | None, base: Path | None = None) -> Order:
    return Order(
        destination=disk,
        virtual_size=size,
        base=base,
        base_format="raw" if base else None,
        format=DiskFormat.RAW,
        extra_specs={"allocpolicy:strategy": "space"},
    )


def test_the_size_of_a_base_is_rounded_up_and_the_report_says_so(ext4: Path) -> None:
    base, disk = ext4 / "odd.raw", ext4 / "rounded"
    base.write_bytes(os.urandom(BASE_SIZE))
    for dry_run in (True, False):
        order = replace(raw(disk, size=None, base=base), dry_run=dry_run)
        report = provision(order, policy=Policy())
        assert f"from the base image's {BASE_SIZE} to {MIB + 4096} bytes" in (
            report.effective_reason
        )
    assert disk.read_bytes() == base.read_bytes() + bytes(4096 - 512)
    base.unlink()
    disk.unlink()


def test_the_operator_may_say_the_alignment(ext4: Path) -> None:
    """Larger for both formats; or smaller, and the disk is attached accordingly."""
    disk = ext4 / "aligned"
    whole = {"OS_ALLOCPOLICY__SIZE_ALIGNMENT": "1M"}
    for format in DiskFormat:
        wanted = (disk, "--format", format, "--size", SIZE + 4096)
        finished = allocpolicy("provision", *wanted, **whole)
        assert finished.status == 2
        assert "size_alignment" in finished.stderr
    report = provision(raw(disk, size=SIZE + 512), policy=Policy(size_alignment=512))
    assert report.attachment is not None
    assert (report.attachment.cache, report.attachment.io) == ("writeback", "threads")
    attached.start([attached_disk(report)])
    disk.unlink()


def inspected(disk: Path, *, format: str) -> AttachedDisk:
    """Return how a disk that others made is to be attached."""
    finished = allocpolicy(
        *("inspect", disk, "--format", format, "--strategy", "none", "-f", "json")
    )
    assert finished.status == 0, finished.stderr
    document = finished.document
    return AttachedDisk(
        path=disk,
        format=format,
        size=document["observed"]["virtual_size"],
        attachment=document["attachment"],
    )


def test_a_vm_starts_with_disks_that_others_made(ext4: Path, tmp_path: Path) -> None:
    """Of odd sizes, where there is no direct I/O, and with a backing file there."""
    with filesystems.mounted("ramfs", size=0, directory=tmp_path) as ramfs:
        odd, far, overlay = ext4 / "odd", ramfs / "far", ext4 / "overlay"
        for disk in (odd, far):
            disk.write_bytes(bytes(BASE_SIZE))
        qemu_img("create", "-q", "-f", "qcow2", "-b", far, "-F", "raw", overlay)
        tiny = ext4 / "tiny"
        options = ("-o", "cluster_size=512")
        qemu_img("create", "-q", "-f", "qcow2", *options, tiny, BASE_SIZE)
        for disk, format in ((odd, "raw"), (far, "raw"), (overlay, "qcow2")):
            found = inspected(disk, format=format)
            assert found.attachment["cache"] == "writeback", disk
            attached.start([found])
        found = inspected(tiny, format="qcow2")
        assert found.attachment["cache"] == "none"
        assert found.attachment["discard_granularity"] == 512
        attached.start([found])
        for disk in (odd, overlay, tiny):
            disk.unlink()


def test_libvirt_is_told_what_it_knows(ext4: Path, tmp_path: Path) -> None:
    """The installed libvirt by default, more where the operator says so."""
    disk = ext4 / "thin"
    assert allocpolicy("provision", disk, "--size", SIZE).status == 0
    old = allocpolicy("inspect", disk, "--libvirt-xml").stdout
    assert "unref" not in old
    attached.validate(attached.domain([(disk, old)]), directory=tmp_path)
    known = {
        "OS_ALLOCPOLICY__QEMU_VERSION": "8.1.0",
        "OS_ALLOCPOLICY__LIBVIRT_VERSION": "10.0",
    }
    driver, blockio = allocpolicy(
        "inspect", disk, "--libvirt-xml", **known
    ).stdout.splitlines()
    assert 'discard="unmap"' in driver
    assert 'discard_no_unref="on"' in driver
    assert blockio == '<blockio discard_granularity="65536" />'
    disk.unlink()
    # QEMU doesn't open version 2 with it.
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", disk, BASE_SIZE)
    given = ("--format", "qcow2", "--strategy", "none")
    old = allocpolicy("inspect", disk, *given, "--libvirt-xml", **known).stdout
    assert 'discard="unmap"' in old
    assert "unref" not in old
    disk.unlink()
