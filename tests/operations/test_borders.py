"""Who owns a directory on the way, or a filesystem below it, can't misuse root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allocpolicy import Change, DiskFormat, Order, Policy, Progress, apply, provision
from tests.harness import images, ordinary_user
from tests.harness.cli import allocpolicy
from tests.harness.cli import provision as provisioned
from tests.harness.filesystems import mount, unmount
from tests.harness.images import MIB

SPACE = {"allocpolicy:strategy": "space"}


class Once:
    """A watcher that does something at the first progress that is reported."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action

    def __call__(self, description: str, /) -> Progress:
        def progress(*, done: int, total: int) -> None:
            if self._action:
                action, self._action = self._action, None
                action()

        return progress


def as_tenant(*command: object, directory: Path) -> None:
    # Ordinary users can't reach the directory by its path.
    subprocess.run(ordinary_user.command(*command), check=True, cwd=directory)


@pytest.fixture
def tenant(directory: Path) -> Path:
    """A directory of an ordinary user, with directories of two VMs in it."""
    tenant = directory / "tenant"
    for path in (tenant, tenant / "a", tenant / "b"):
        path.mkdir()
        os.chown(path, ordinary_user.UID, ordinary_user.UID)
    return tenant


@pytest.mark.filesystems("xfs")
class TestComponents:
    """Components of the path are exchanged by their owner while root works."""

    def test_a_new_disk_lands_where_its_directory_was_opened(
        self, directory: Path, tenant: Path
    ) -> None:
        victim = directory / "victim"
        victim.mkdir()

        def swap() -> None:
            as_tenant("mv", "a", "gone", directory=tenant)
            as_tenant("ln", "-s", victim, "a", directory=tenant)

        order = Order(
            destination=tenant / "a" / "disk", virtual_size=MIB, extra_specs=SPACE
        )
        policy = Policy(lock_path=directory / "locks")
        provision(order, policy=policy, watch=Once(swap))
        assert os.listdir(victim) == []
        assert os.listdir(tenant / "gone") == ["disk"]

    def test_the_disk_that_was_opened_is_the_one_that_is_rewritten(
        self, directory: Path, tenant: Path
    ) -> None:
        for name in ("a", "b"):
            disk = tenant / name / "disk"
            images.qemu_img("create", "-q", "-f", "qcow2", disk, 64 * MIB)
            with disk.open("r+b") as file:
                os.setxattr(file.fileno(), "user.vm", name.encode())

        def swap() -> None:
            for source, target in (("a", "c"), ("b", "a"), ("c", "b")):
                as_tenant("mv", "-T", source, target, directory=tenant)

        before = (tenant / "b" / "disk").stat()
        finished = apply_performance(tenant / "a" / "disk", directory, Once(swap))
        assert finished == "staged"
        theirs, ours = tenant / "a" / "disk", tenant / "b" / "disk"
        assert theirs.stat().st_ino == before.st_ino
        assert theirs.stat().st_mtime_ns == before.st_mtime_ns
        assert os.getxattr(ours, "user.vm") == b"a"
        assert "user.allocpolicy" in os.listxattr(ours)
        assert os.listdir(tenant / "a") == os.listdir(tenant / "b") == ["disk"]

    def test_a_name_that_is_another_disks_by_now_is_left_alone(
        self, directory: Path, tenant: Path
    ) -> None:
        disk, other = tenant / "a" / "disk", tenant / "b" / "disk"
        for path in (disk, other):
            images.qemu_img("create", "-q", "-f", "qcow2", path, 64 * MIB)
        inode = other.stat().st_ino
        with pytest.raises(Exception, match="replaced meanwhile"):
            apply_performance(disk, directory, Once(lambda: os.rename(other, disk)))
        assert disk.stat().st_ino == inode
        assert os.listdir(tenant / "a") == ["disk"]


def apply_performance(disk: Path, directory: Path, watch: Once) -> str:
    change = Change(
        disk=disk,
        format=DiskFormat.QCOW2,
        extra_specs={"allocpolicy:strategy": "performance"},
    )
    policy = Policy(lock_path=directory / "locks")
    return str(apply(change, policy=policy, watch=watch).mode)


@pytest.fixture
def layers(directory: Path) -> Iterator[Path]:
    """An overlay mount, ``merged``, with a disk in its lower directory."""
    for name in ("lower", "upper", "work", "merged"):
        (directory / name).mkdir()
    provisioned(directory / "lower" / "disk", "--size", "8M")
    options = [f"{name}dir={directory}/{name}" for name in ("lower", "upper", "work")]
    merged = directory / "merged"
    mount("overlay", source=Path("overlay"), mount_point=merged, options=options)
    yield directory
    unmount(merged)


@pytest.mark.filesystems("ext4", "xfs")
class TestOverlay:
    """A lease there is on overlayfs's own inode: it doesn't see the file below."""

    @pytest.mark.parametrize(
        "command",
        [
            ("apply", "--strategy", "performance"),
            ("apply", "--strategy", "space"),
            ("resize", "16M"),
        ],
    )
    def test_no_disk_is_changed(self, layers: Path, command: tuple[str, ...]) -> None:
        name, *options = command
        disk, before = layers / "merged" / "disk", (layers / "lower" / "disk").stat()
        finished = allocpolicy(name, disk, *options)
        assert finished.status == 4, finished.stderr
        assert str(disk) in finished.stderr
        assert len(finished.stderr.splitlines()) == 1
        assert os.listdir(layers / "upper") == []
        after = (layers / "lower" / "disk").stat()
        assert (after.st_size, after.st_mtime_ns) == (
            before.st_size,
            before.st_mtime_ns,
        )

    def test_a_disk_with_nothing_to_do_is_not_copied(self, layers: Path) -> None:
        finished = allocpolicy("apply", layers / "merged" / "disk")
        assert finished.status == 0, finished.stderr
        assert os.listdir(layers / "upper") == []

    def test_host_probe_says_that_leases_are_no_use(self, layers: Path) -> None:
        finished = allocpolicy("host", "probe", layers / "merged", "-f", "json")
        assert '"lease": false' in finished.stdout
