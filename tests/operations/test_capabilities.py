"""Root without some of its capabilities: what is possible works, the rest is told."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import capabilities, filesystems, images, ordinary_user
from tests.harness.capabilities import OWNER
from tests.harness.cli import Finished, command, environment, provision
from tests.harness.images import MIB

pytestmark = pytest.mark.qemu
# What Debian's AppArmor profile of libvirtd (9.0.0-4+deb12u2) doesn't have, of those
# that matter to files; and what a container of Docker's has dropped.
LIBVIRTD = ("lease", "linux_immutable", "mac_override", "setfcap", "sys_time")
CONTAINER = (
    *("lease", "linux_immutable", "dac_read_search", "sys_admin", "sys_resource"),
    *("sys_ptrace", "sys_rawio", "ipc_lock", "mac_override", "syslog"),
)
PERFORMANCE = ("--strategy", "performance")
SPACE = ("--strategy", "space")
QCOW2 = ("--format", "qcow2")


@pytest.fixture
def place(directory: Path) -> Iterator[Path]:
    """Give a directory on the filesystem that every user reaches."""
    directory.chmod(0o755)
    with ordinary_user.public_directory() as public:
        place = public / "place"
        place.mkdir()
        filesystems.mount("none", source=directory, mount_point=place, options=["bind"])
        try:
            yield place
        finally:
            filesystems.unmount(place)


def run(dropped: tuple[str, ...], *arguments: object) -> Finished:
    """Run allocpolicy as root without capabilities."""
    finished = subprocess.run(
        capabilities.without(*dropped, command=command(*arguments)),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    return Finished(
        status=finished.returncode, stdout=finished.stdout, stderr=finished.stderr
    )


def overlay_of_a_user(directory: Path) -> Path:
    """Make a disk of another user's on a base of his, which nobody else may read."""
    base, disk = directory / "base", directory / "disk"
    base.write_bytes(os.urandom(MIB) + bytes(3 * MIB))
    provision(disk, "--base", base, "--strategy", "none")
    images.qemu_io(disk, "write -P 7 2M 64k", format="qcow2")
    for file in (base, disk):
        os.chown(file, OWNER, OWNER)
        file.chmod(0o600)
    return disk


def seen(disk: Path) -> tuple[object, ...]:
    """Return whose the disk is, what it reads as, and what is beside it."""
    status = disk.stat()
    copy = disk.with_name("copy")
    images.qemu_img("convert", "-O", "raw", disk, copy)
    content = copy.read_bytes()
    copy.unlink()
    names = sorted(os.listdir(disk.parent))
    mode = stat.S_IMODE(status.st_mode)
    return status.st_uid, status.st_gid, mode, content, names


@pytest.mark.filesystems("ext4", "xfs")
@pytest.mark.parametrize("dropped", [LIBVIRTD, CONTAINER])
def test_where_hosts_withhold_them_everything_works(
    place: Path, dropped: tuple[str, ...]
) -> None:
    """On disks of other owners: in place, by a rewrite, and new ones."""
    disk = overlay_of_a_user(place)
    before = seen(disk)
    for policy in (SPACE, PERFORMANCE):
        finished = run(dropped, "apply", disk, *policy)
        assert finished.status == 0, finished.stderr
        assert seen(disk) == before
    assert "backing-filename" not in images.info(disk, format="qcow2")
    new = place / "new"
    owner = ("--owner", f"{OWNER}:{OWNER}", "--mode", "0600")
    arguments = ("--base", place / "base", *PERFORMANCE, *owner)
    finished = run(dropped, "provision", new, *arguments)
    assert finished.status == 0, finished.stderr
    assert new.stat().st_uid == OWNER


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize(
    ("dropped", "told"),
    [
        (("chown",), "root lacks CAP_CHOWN"),
        (("fowner",), "root lacks CAP_FOWNER"),
        (("dac_override", "dac_read_search"), "root lacks CAP_DAC_OVERRIDE"),
        (("setgid",), "it takes CAP_SETUID and CAP_SETGID"),
        (("lease", "setuid"), "it takes CAP_SETUID and CAP_SETGID"),
    ],
)
def test_what_is_missing_is_told_and_the_disk_stays(
    place: Path, dropped: tuple[str, ...], told: str
) -> None:
    disk = overlay_of_a_user(place)
    before = seen(disk)
    finished = run(dropped, "apply", disk, *PERFORMANCE)
    assert finished.status == 2
    (line,) = finished.stderr.splitlines()
    assert told in line
    assert str(disk) in line
    assert seen(disk) == before


@pytest.mark.filesystems("ext4")
def test_a_disk_that_cannot_be_held_is_told_by_a_dry_run_too(place: Path) -> None:
    disk = place / "disk"
    provision(disk, "--size", MIB, *QCOW2, "--strategy", "none")
    os.chown(disk, OWNER, OWNER)
    before = seen(disk)
    lines = set()
    for dry_run in (("--dry-run",), ()):
        finished = run(("lease", "setuid"), "apply", disk, *PERFORMANCE, *dry_run)
        assert finished.status == 4
        lines |= set(finished.stderr.splitlines())
    (line,) = lines
    assert f"it belongs to user {OWNER}, and a lease on another user's file" in line
    assert seen(disk) == before


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize(
    ("dropped", "told"),
    [
        (("chown",), "root lacks CAP_CHOWN"),
        (("dac_override",), "root lacks CAP_DAC_OVERRIDE"),
        (("fowner",), "root lacks CAP_FOWNER"),
    ],
)
def test_a_new_disk_of_another_owner_is_made_whole_or_not_at_all(
    place: Path, dropped: tuple[str, ...], told: str
) -> None:
    disk = place / "disk"
    owner = ("--owner", f"{OWNER}:{OWNER}", "--mode", "0600")
    finished = run(dropped, "provision", disk, "--size", MIB, *SPACE, *owner)
    assert finished.status in (2, 5)
    (line,) = finished.stderr.splitlines()
    assert told in line
    assert os.listdir(place) == []
