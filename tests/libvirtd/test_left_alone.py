"""A disk that may not be rewritten is left as it is, and its VM starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.harness import domains
from tests.harness.images import MIB, qemu_img
from tests.harness.instances import Instances
from tests.harness.kept import look
from tests.harness.libvirt_host import LibvirtHost
from tests.harness.looks import inspected
from tests.harness.machines import DomainDisk
from tests.libvirtd.conftest import Define, call_hook, configure

PERFORMANCE = domains.nova({"allocpolicy:strategy": "performance"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A disk, all files that its QEMU opens, and how the host is configured."""

    disk: DomainDisk
    opened: tuple[Path, ...]
    options: dict[str, object] = field(default_factory=dict)


def plain(instances: Instances, **options: object) -> Case:
    base = instances.base()
    disk = instances.overlay(base=base)
    return Case(disk=disk, opened=(disk.path, base), options=options)


def external_snapshot(instances: Instances) -> Case:
    """A snapshot's overlay is on the instance's disk, which is no base image."""
    below = plain(instances)
    path = instances.directory / "disk.snap"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below.disk.path, path)
    disk = replace(below.disk, path=path)
    return Case(disk=disk, opened=(path, *below.opened))


def explicit_backing_store(instances: Instances) -> Case:
    """QEMU would open what the XML says is below the disk, also when nothing is."""
    case = plain(instances)
    element = (
        "<backingStore type='file'><format type='raw'/>"
        f"<source file='{case.opened[1]}'/><backingStore/></backingStore>"
    )
    return replace(case, disk=replace(case.disk, elements=element))


def internal_snapshot(instances: Instances) -> Case:
    case = plain(instances)
    qemu_img("snapshot", "-c", "one", case.disk.path)
    return case


def bitmap(instances: Instances) -> Case:
    case = plain(instances)
    qemu_img("bitmap", "--add", case.disk.path, "backup")
    return case


def base_outside(instances: Instances) -> Case:
    outside = instances.directory / "elsewhere"
    outside.mkdir()
    base = instances.base(inside=outside)
    disk = instances.overlay(base=base)
    return Case(disk=disk, opened=(disk.path, base))


def base_by_a_link(instances: Instances) -> Case:
    """A link among the base images, to what is none."""
    outside = instances.directory / "elsewhere"
    outside.mkdir()
    base = instances.base(inside=outside)
    (instances.bases / "base").symlink_to(base)
    disk = instances.overlay(base=instances.bases / "base")
    return Case(disk=disk, opened=(disk.path, base))


def never(instances: Instances) -> Case:
    return plain(instances, libvirt_convert="never")


def another_name(instances: Instances) -> Case:
    case = plain(instances)
    os.link(case.disk.path, instances.directory / "other")
    return case


CASES = [
    external_snapshot,
    explicit_backing_store,
    internal_snapshot,
    bitmap,
    base_outside,
    base_by_a_link,
    never,
    another_name,
]


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("make", CASES)
def test_its_vm_starts_on_the_files_as_they_were(
    hooked: LibvirtHost,
    instances: Instances,
    define: Define,
    make: Callable[[Instances], Case],
) -> None:
    """QEMU has these files open and no other; the stamp says what it should be."""
    case = make(instances)
    assert_left_alone(hooked, instances, define, case)


@pytest.mark.filesystems("ext4")
def test_one_that_would_be_copied_for_too_long(
    hooked: LibvirtHost, instances: Instances, define: Define
) -> None:
    """Where data can't be shared, and there is more of it than the limit."""
    case = plain(instances, libvirt_max_copy=2 * MIB)
    assert_left_alone(hooked, instances, define, case)


def assert_left_alone(
    host: LibvirtHost, instances: Instances, define: Define, case: Case
) -> None:
    configure(host, instances, **case.options)
    before, names = {path: look(path) for path in case.opened}, instances.names()
    machine = define(case.disk, metadata=PERFORMANCE)
    # by itself first: QEMU writes into a qcow2 that has bitmaps
    assert call_hook(machine).status == 0
    for path, was in before.items():
        assert look(path).is_but_for_its_stamp(was)
    machine.starts()
    assert machine.open_files() == {os.path.realpath(path) for path in case.opened}
    machine.end()
    assert instances.names() == names
    stamp = inspected(case.disk.path, "--format", "qcow2")["stamp"]
    assert stamp["requested"]["strategy"] == "performance"
    assert stamp["effective"]["strategy"] == "none"


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("make", CASES)
def test_where_it_must_not_be_left_the_start_fails(
    hooked: LibvirtHost,
    instances: Instances,
    define: Define,
    make: Callable[[Instances], Case],
) -> None:
    """By libvirt_on_unmet = fail: in one line with the disk, which is as it was."""
    case = make(instances)
    configure(hooked, instances, **case.options, libvirt_on_unmet="fail")
    before = look(case.disk.path)
    said = define(case.disk, metadata=PERFORMANCE).start()
    assert said.status == 1
    line = said.stderr.partition("exit status 2: ")[2].splitlines()[0]
    assert str(case.disk.path) in line
    assert look(case.disk.path) == before


@pytest.mark.filesystems("xfs")
def test_one_that_somebody_reads_is_left(instances: Instances, define: Define) -> None:
    """A backup that has it open goes on with the file that it has."""
    case = plain(instances)
    before, machine = look(case.disk.path), define(case.disk, metadata=PERFORMANCE)
    with case.disk.path.open("rb"):
        machine.starts()
        assert machine.open_files() == set(map(str, case.opened))
        assert look(case.disk.path).is_but_for_its_stamp(before)


@pytest.mark.filesystems("xfs")
def test_one_in_use_is_left_for_qemu_to_refuse(
    instances: Instances, define: Define
) -> None:
    """Another machine has it: it stays as it is, for both."""
    case = plain(instances)
    first, second = (
        define(case.disk, metadata=domains.nova({})),
        define(case.disk, metadata=PERFORMANCE),
    )
    first.starts()
    before = look(case.disk.path)
    assert second.start().status == 1
    assert first.state == "paused"
    assert first.open_files() == {str(path) for path in case.opened}
    assert look(case.disk.path).is_but_for_its_stamp(before)


@pytest.mark.filesystems("xfs")
def test_what_a_snapshot_keeps_apart_stays_apart(
    instances: Instances, define: Define
) -> None:
    """An external snapshot of libvirt's: neither its disk nor its overlay changes."""
    case = plain(instances)
    machine = define(case.disk, metadata=PERFORMANCE)
    machine.starts()
    machine.host.does("snapshot-create-as", machine.name, "one", "--disk-only")
    machine.end()
    (overlay,) = set(instances.names()) - {"disk", "_base/base"}
    files = [case.disk.path, instances.directory / overlay]
    before = [look(path) for path in files]
    assert call_hook(machine).status == 0
    assert look(files[0]) == before[0]
    assert look(files[1]).is_but_for_its_stamp(before[1])
    machine.starts()
    assert machine.open_files() == set(map(str, files))
