"""A qcow2 with an external data file is judged by both of its files."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy import schema
from allocpolicy.contract.policy import Policy
from allocpolicy.observe import account
from tests.harness import images, ordinary_user
from tests.harness.cli import allocpolicy
from tests.harness.images import MIB
from tests.harness.looks import inspected
from tests.harness.qcow2_disks import create

pytestmark = pytest.mark.qemu
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
EXT4 = pytest.mark.filesystems("ext4")
SPACE = ("--format", "qcow2", "--strategy", "space")
SIZE = 64 * MIB


def disk_of_two(directory: Path, *options: str, size: int = SIZE) -> tuple[Path, Path]:
    data = directory / "data"
    disk = create(directory / "disk", size, f"data_file={data}", *options)
    return disk, data


def reserve(path: Path, length: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(fd, 0, length)
    finally:
        os.close(fd)


@EXT4
@pytest.mark.parametrize("raw", ["on", "off"])
def test_both_files_must_be_reserved(directory: Path, raw: str) -> None:
    """Whichever is thin is named, with the command that helps."""
    disk, data = disk_of_two(directory, f"data_file_raw={raw}")
    thin = inspected(disk, *SPACE)
    assert thin["observed"]["allocation"] == "thin"
    assert not thin["observed"]["guaranteed"]
    assert thin["verdict"]["judgement"] == "drifted"
    told = thin["verdict"]["reason"]
    assert f"its data file {data}: thin: no storage of its own" in told
    assert re.search(r" 6[34](\.\d)? MiB of holes, (9\d|100) %", told)
    for dry_run in (("--dry-run",), ()):
        refused = allocpolicy("apply", disk, *SPACE, *dry_run)
        assert refused.status == 2
        assert f"fallocate -l {SIZE} {data}" in refused.stderr
    reserve(data, SIZE)
    partly = inspected(disk, *SPACE)["observed"]
    assert partly["data_file"]["allocation"] == "reserved"
    assert partly["allocation"] == "thin"
    assert partly["exception"].startswith("the qcow2 file itself: thin")
    reserve(disk, partly["full_size"])
    assert allocpolicy("apply", disk, *SPACE).status == 0
    whole = inspected(disk)
    assert whole["verdict"]["judgement"] == "meets"
    assert whole["observed"]["guaranteed"]
    length = disk.stat().st_size
    write = [
        "qemu-io",
        "-f",
        "qcow2",
        "-d",
        "ignore",
        "-c",
        f"write 0 {SIZE}",
        str(disk),
    ]
    subprocess.run(write, check=True, capture_output=True)
    assert (disk.stat().st_size, data.stat().st_size) == (length, SIZE)
    refused = allocpolicy("resize", disk, "128M")
    assert (refused.status, disk.stat().st_size) == (2, length)
    assert "qemu-img resize" in refused.stderr
    images.qemu_img("resize", "-q", "-f", "qcow2", disk, "128M")
    refused = allocpolicy("apply", disk)
    assert (refused.status, "fallocate -l" in refused.stderr) == (2, True)
    images.qemu_img("check", "-q", "-f", "qcow2", disk)


@EXT4
@pytest.mark.parametrize("size", [SIZE, SIZE + 512])
def test_a_data_file_of_its_full_size_never_grows(directory: Path, size: int) -> None:
    """The first write to a cluster writes all of it, also beyond the virtual size."""
    disk, data = disk_of_two(directory, size=size)
    full = inspected(disk, "--format", "qcow2")["observed"]["data_file"]["full_size"]
    assert full == -(-size // 65536) * 65536
    os.truncate(data, full)
    last = (size - 1) // 512 * 512
    write = ["qemu-io", "-f", "qcow2", "-c", f"write {last} 512", str(disk)]
    subprocess.run(write, check=True, capture_output=True)
    assert data.stat().st_size == full


def lost(disk: Path, data: Path) -> str:
    data.unlink()
    return "No such file"


def a_device(disk: Path, data: Path) -> str:
    data.unlink()
    data.symlink_to("/dev/null")
    return "not a regular file"


def itself(disk: Path, data: Path) -> str:
    data.unlink()
    data.hardlink_to(disk)
    return "the disk itself"


def renamed(name: str) -> Callable[[Path, Path], str]:
    """Return what writes another name into the header, of the same length."""

    def rename(disk: Path, data: Path) -> str:
        content, old = disk.read_bytes(), os.fsencode(data)
        assert content.count(old) == 1
        new = os.fsencode(name).ljust(len(old), b"x")[: len(old)]
        disk.write_bytes(content.replace(old, new))
        return "directory in which it is started" if ":" not in name else "not a file"

    return rename


@EXT4
@pytest.mark.parametrize(
    "change",
    [lost, a_device, itself, renamed("relative"), renamed("nbd:localhost:10809")],
)
def test_what_cannot_be_followed_is_unverifiable(
    directory: Path, change: Callable[[Path, Path], str]
) -> None:
    """Nothing is promised, and nothing is changed."""
    disk, data = disk_of_two(directory)
    reserve(data, SIZE)
    why = change(disk, data)
    reserve(disk, disk.stat().st_size + MIB)
    before = disk.read_bytes()
    for strategy in ("space", "none", "performance"):
        given = ("--format", "qcow2", "--strategy", strategy)
        document = inspected(disk, *given)
        assert document["observed"]["allocation"] == "unverifiable"
        assert not document["observed"]["guaranteed"]
        assert why in document["observed"]["exception"]
        expected = "drifted" if strategy == "performance" else "unverifiable"
        assert document["verdict"]["judgement"] == expected
        for dry_run in (("--dry-run",), ()):
            refused = allocpolicy("apply", disk, *given, *dry_run)
            assert refused.status == 2
            assert why in refused.stderr
    assert disk.read_bytes() == before


def test_a_name_leads_no_further_than_the_disks_owner_may_read() -> None:
    """Who may write to the disk may have written the name."""
    user = ordinary_user.UID
    with ordinary_user.public_directory() as directory:
        disk, data = disk_of_two(directory)
        data.chmod(0o600)
        os.chown(disk, user, user)
        document = inspected(disk, *SPACE)
        assert document["observed"]["data_file"]["unseen"]
        assert document["verdict"]["judgement"] == "unverifiable"
        assert "may not read this file" in document["verdict"]["reason"]
        assert allocpolicy("apply", disk, *SPACE).status == 2
        os.chown(data, user, user)
        assert not inspected(disk, *SPACE)["observed"]["data_file"]["unseen"]


@ALL
def test_what_may_come_counts_once(directory: Path) -> None:
    """As long as the data file is below the disk's directory it counts by itself."""
    disk, data = disk_of_two(directory)
    assert (
        allocpolicy("apply", disk, "--format", "qcow2", "--strategy", "none").status
        == 0
    )
    for length in (0, SIZE):
        os.truncate(data, length)
        taken = account.take(directory, policy=Policy())
        assert abs(taken.promised - SIZE) < 2 * MIB
        assert (taken.disks, taken.unstamped, taken.images) == (1, 0, 0)
        assert taken.virtual_size == SIZE
    audited = allocpolicy("audit", directory, "--require-stamp")
    assert audited.status == 0, audited.stderr
    assert "0 without policy, 0 base images, 1 data file. " in audited.stderr
    listed = allocpolicy("host", "capacity", directory, "--disks", "-f", "json")
    assert schema.validate(listed.document, schema=schema.load("capacity")) == []
    kinds = {Path(one["path"]).name: one["kind"] for one in listed.document["listed"]}
    assert kinds == {"disk": "disk", "data": "data file of a disk"}
    elsewhere = directory / "below"
    elsewhere.mkdir()
    disk.rename(elsewhere / "disk")
    taken = account.take(elsewhere, policy=Policy())
    assert abs(taken.promised - SIZE) < 2 * MIB
    audited = allocpolicy("audit", elsewhere, "-f", "json")
    assert json.loads(audited.stdout)[0]["verdict"] == "meets"


@EXT4
def test_a_name_that_is_not_printable_draws_on_no_terminal(directory: Path) -> None:
    """The disk's owner writes the name of its data file."""
    data = directory / "da\x1bta"
    disk = create(directory / "disk", SIZE, f"data_file={data}")
    seen = [inspected(disk, *SPACE)["observed"]["exception"]]
    data.unlink()
    seen.append(inspected(disk, *SPACE)["observed"]["exception"])
    rows = allocpolicy("audit", disk, *SPACE, "-f", "json").document
    seen.append(rows[0]["reason"])
    assert all("da\\x1bta" in said and said.isprintable() for said in seen)
