"""Disks that Nova makes with the backend put in, and those that it makes itself."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest
from nova import exception
from nova.virt.libvirt import driver, imagebackend

from allocpolicy import Allocation, MappingState
from allocpolicy_nova_backend import engine
from allocpolicy_nova_backend.image import PolicyQcow2
from compute_host import MIB, SIZE, ComputeHost
from looks import backing_file, promise, reads_like, stamped

everywhere = pytest.mark.parametrize("storage", ["xfs", "ext4"], indirect=True)
MORE_THAN_THERE_IS = 4 << 30


@everywhere
def test_a_standalone_disk_is_made_at_once(host: ComputeHost) -> None:
    """Nova's own functions make it: no backing file, all mapped, the image's data."""
    disk = host.cache(host.instance(strategy="performance"))
    assert backing_file(disk) is None
    assert reads_like(disk, host.base)
    seen = promise(disk, strategy="performance").observed
    assert seen.virtual_size == SIZE
    assert seen.mapping is MappingState.FULL


@everywhere
def test_a_reserved_disk_is_made_at_once(host: ComputeHost) -> None:
    disk = host.cache(host.instance(strategy="space"))
    assert reads_like(disk, host.base)
    seen = promise(disk, strategy="space").observed
    assert seen.allocation is Allocation.RESERVED


def test_the_base_image_decides_the_size_where_the_flavor_doesnt(
    host: ComputeHost,
) -> None:
    """A flavor whose root_gb is 0 has the image's size, as with Nova alone."""
    disk = host.cache(host.instance(strategy="performance"), size=None)
    seen = promise(disk, strategy="performance").observed
    assert seen.virtual_size == host.image.virtual_size


def test_nova_may_read_the_disk_of_a_running_vm(host: ComputeHost) -> None:
    """libvirt gives it to QEMU's user; it has the mode that qemu-img gives one."""
    ours, theirs = host.instance(strategy="performance"), host.instance()
    modes = {host.cache(each).stat().st_mode for each in (ours, theirs)}
    assert len(modes) == 1


@everywhere
def test_too_little_room_is_another_hosts_turn(host: ComputeHost) -> None:
    """Nova tries another host; here, nothing is left of the disk."""
    instance = host.instance(strategy="space")
    with pytest.raises(exception.ComputeResourcesUnavailable, match="not enough space"):
        host.cache(instance, size=MORE_THAN_THERE_IS)
    assert not host.left(instance)


@pytest.mark.parametrize(
    "specs",
    [{"strategi": "space"}, {"strategy": "spaec"}, {"performance.data": "sparce"}],
    ids=str,
)
def test_what_no_host_would_do_is_given_up(
    host: ComputeHost, specs: dict[str, str]
) -> None:
    """Nova tries no other host, and the instance's fault has our words."""
    instance = host.instance(**{"strategy": "performance"} | specs)
    with pytest.raises(exception.InvalidDiskInfo, match="allocpolicy: "):
        host.cache(instance)
    assert not host.left(instance)


def test_a_wrong_configuration_is_another_hosts_turn(
    host: ComputeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nova tries another host after any error that isn't about the request."""
    instance = host.instance(strategy="performance")
    monkeypatch.setenv("OS_ALLOCPOLICY__ON_UNSUPPORTED", "faill")
    with pytest.raises(exception.InternalError, match="allocpolicy: configuration: "):
        host.cache(instance)
    assert not host.left(instance)


@pytest.mark.parametrize(
    "program",
    ["import os; os.kill(os.getpid(), 9)", "1 / 0", "print('{}')"],
)
def test_a_worker_without_an_answer_is_another_hosts_turn(
    host: ComputeHost, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """Whatever became of it: killed, a bug of ours, an answer that is none."""
    instance = host.instance(strategy="performance")
    monkeypatch.setattr(engine, "COMMAND", (sys.executable, "-c", program))
    with pytest.raises(exception.InternalError, match="allocpolicy: ") as refused:
        host.cache(instance)
    assert "\n" not in str(refused.value), "it is the instance's fault in one line"
    assert not host.left(instance)


def test_nova_checks_the_image_first(host: ComputeHost) -> None:
    """What it refuses is refused in its words, and the worker never sees it."""
    instance = host.instance(strategy="performance")
    with pytest.raises(exception.FlavorDiskSmallerThanImage):
        host.cache(instance, size=host.image.virtual_size // 2)

    def fetch(target: str, **_: object) -> None:
        made = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw")
        subprocess.run([*made, "-b", "/etc/passwd", target, "1M"], check=True)

    host.base.unlink()
    with pytest.raises(exception.InvalidDiskInfo, match="safety check"):
        host.cache(instance, fetch=fetch)
    assert not host.left(instance)


def test_without_a_policy_the_disk_is_novas(
    host: ComputeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the operator has one for all flavors."""
    disk = host.cache(host.instance())
    assert backing_file(disk) == str(host.base)
    assert not stamped(disk)
    monkeypatch.setenv("OS_ALLOCPOLICY__PREALLOCATE_IMAGES", "space")
    monkeypatch.setattr(PolicyQcow2, "default_strategy", "space")
    promise(host.cache(host.instance()), strategy="space")


@pytest.mark.parametrize("name", ["disk.rescue", "disk.local.rescue", "disk.foo"])
def test_disks_that_no_flavor_decides_are_novas(host: ComputeHost, name: str) -> None:
    disk = host.cache(host.instance(strategy="performance"), name)
    assert backing_file(disk) == str(host.base)
    assert not stamped(disk)


@pytest.mark.parametrize("format", ["qcow2", "vmdk"])
def test_images_that_nova_keeps_as_they_are(host: ComputeHost, format: str) -> None:
    """Without force_raw_images; what only QEMU reads stays below Nova's overlay."""

    def fetch(target: str, **_: object) -> None:
        convert = ("qemu-img", "convert", "-f", "raw", "-O", format)
        subprocess.run([*convert, host.image.path, target], check=True)

    instance = host.instance(strategy="performance")
    disk = host.cache(instance, fetch=fetch)
    assert stamped(disk) is (format == "qcow2")
    assert backing_file(disk) == (None if format == "qcow2" else str(host.base))
    assert host.left(instance) == {"disk"}
    assert reads_like(disk, host.image.path)


def test_other_types_of_images_are_novas(host: ComputeHost) -> None:
    """Raw images, config drives, kernels: the class that Nova chose."""
    chosen = imagebackend.Backend(use_cow=True).backend
    assert chosen("raw") is imagebackend.Flat
    assert chosen("rbd") is imagebackend.Rbd
    assert chosen("default") is chosen("qcow2") is PolicyQcow2


def test_ephemeral_disks_have_novas_filesystem(host: ComputeHost) -> None:
    """Nova formats a file, and the disk has what is in it, under its own policy."""
    instance = host.instance(**{"strategy.ephemeral": "performance"})
    fetch = functools.partial(
        driver.LibvirtDriver._create_ephemeral, fs_label="ephemeral0", os_type=None
    )
    disk = host.disk(instance, "disk.eph0")
    how = {"context": None, "size": 1 << 30, "ephemeral_size": 1, "safe": True}
    disk.cache(fetch_func=fetch, filename="ephemeral_1_default", **how)
    base = host.instances / "_base" / "ephemeral_1_default"
    assert promise(Path(disk.path), strategy="performance").observed.virtual_size == (
        1 << 30
    )
    assert reads_like(Path(disk.path), base)
    assert _filesystem(base) == ("vfat", "ephemeral0")


def test_swap_disks_are_novas_swap_space(host: ComputeHost) -> None:
    instance = host.instance(**{"strategy.swap": "space"})
    disk = host.disk(instance, "disk.swap")
    how = {"context": None, "size": 8 * MIB, "swap_mb": 8, "safe": True}
    disk.cache(fetch_func=driver.LibvirtDriver._create_swap, filename="swap_8", **how)
    assert promise(Path(disk.path), strategy="space").observed.virtual_size == 8 * MIB
    base = host.instances / "_base" / "swap_8"
    assert reads_like(Path(disk.path), base)
    assert _filesystem(base) == ("swap", "")


def _filesystem(path: Path) -> tuple[str, ...]:
    def value(name: str) -> str:
        done = subprocess.run(
            ["blkid", "-p", "-o", "value", "-s", name, path],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    return value("TYPE"), value("LABEL")
