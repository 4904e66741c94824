"""``stamp show``, ``set`` and ``remove`` change what is recorded, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from allocpolicy import schema
from allocpolicy.images import stamp as stamps
from tests.harness import ordinary_user
from tests.harness.cli import allocpolicy, command, environment, provision
from tests.harness.filesystems import at_rest
from tests.harness.images import MIB, qemu_img

JSON = ("-f", "json")
SPACE = ("--strategy", "space")
on_all = pytest.mark.filesystems("ext4", "xfs", "btrfs")


def shown(disk: Path) -> dict[str, object]:
    """Return the disk's stamp, which keeps to its schema."""
    document: dict[str, object] = allocpolicy("stamp", "show", disk, *JSON).document
    assert schema.validate(document, schema=schema.load("stamp")) == []
    assert document == json.loads(os.getxattr(disk, stamps.XATTR))
    return document


def chosen(disk: Path, which: str) -> tuple[object, object]:
    """Return a strategy in the disk's stamp, and its options."""
    choice = shown(disk)[which]
    assert isinstance(choice, dict)
    return choice["strategy"], choice["options"]


def state(disk: Path) -> tuple[object, ...]:
    """Return all of a file that isn't its stamp, and not its ctime."""
    found = disk.stat()
    identity = (found.st_ino, found.st_mode, found.st_mtime_ns, found.st_blocks)
    return (*identity, disk.read_bytes())


@on_all
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_nothing_but_the_stamp_is_changed(directory: Path, format: str) -> None:
    disk = directory / "disk"
    qemu_img("create", "-q", "-f", format, disk, "8M")
    at_rest(directory)
    before = state(disk)
    done = allocpolicy("stamp", "set", disk, "--format", format, *SPACE, *JSON)
    assert done.status == 0, done.stderr
    assert done.document["verdict"]["judgement"] in ("drifted", "unverifiable")
    assert done.document["format"] == format
    assert chosen(disk, "requested") == ("space", {"reserve": "fallocate"})
    assert allocpolicy("stamp", "set", disk, "--strategy", "none").status == 0
    assert chosen(disk, "effective") == ("none", {})
    assert allocpolicy("stamp", "remove", disk).status == 0
    assert not stamps.is_visible(str(disk))
    assert state(disk) == before
    for verb in ("show", "remove"):
        finished = allocpolicy("stamp", verb, disk)
        assert finished.status == 2
        assert f"{disk}: it has no stamp" in finished.stderr


@on_all
def test_a_stamp_that_is_there_is_not_written_again(directory: Path) -> None:
    """Not even its ctime changes; `changed` tells."""
    disk = directory / "disk"
    qemu_img("create", "-q", "-f", "raw", disk, "8M")
    given = ("stamp", "set", disk, "--format", "raw", "--strategy", "none", *JSON)
    assert allocpolicy(*given).document["changed"] is True
    before = disk.stat().st_ctime_ns
    assert allocpolicy(*given).document["changed"] is False
    assert disk.stat().st_ctime_ns == before
    assert allocpolicy(*given, "--label", "a=b").document["changed"] is True


def test_a_wrong_format_can_be_undone(tmp_path: Path) -> None:
    """A qcow2 that was taken for raw."""
    disk = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "qcow2", disk, "8M")
    raw = ("--format", "raw", "--strategy", "none", "--force")
    assert allocpolicy("stamp", "set", disk, *raw).status == 0
    qcow2 = ("--format", "qcow2", "--strategy", "none")
    refused = allocpolicy("stamp", "set", disk, *qcow2)
    assert refused.status == 2
    assert "allocpolicy stamp remove" in refused.stderr
    assert allocpolicy("stamp", "remove", disk).status == 0
    assert allocpolicy("stamp", "set", disk, *qcow2).status == 0
    assert shown(disk)["format"] == "qcow2"


def test_a_malformed_stamp_can_be_removed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    os.setxattr(disk, stamps.XATTR, b"{")
    for verb in ("show", "set"):
        choice = SPACE if verb == "set" else ()
        refused = allocpolicy("stamp", verb, disk, *choice)
        assert refused.status == 2
        assert "allocpolicy stamp remove" in refused.stderr
    assert allocpolicy("stamp", "remove", disk).status == 0
    assert not stamps.is_visible(str(disk))


def test_it_asks_for_what_it_needs(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    for given, word in (((), "--strategy"), (SPACE, "--disk-format")):
        refused = allocpolicy("stamp", "set", disk, *given)
        assert refused.status == 2
        assert word in refused.stderr
    refused = allocpolicy("stamp", "set", disk, "--format", "qcow2", *SPACE)
    assert refused.status == 2
    assert "not a qcow2 image" in refused.stderr
    assert not stamps.is_visible(str(disk))


@on_all
def test_a_vm_may_have_the_disk_open(directory: Path) -> None:
    """Neither do its locks hinder us, nor do ours hinder it."""
    disk = directory / "disk"
    provision(disk, "--size", "8M")
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", disk],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        print("write 0 64k", file=guest.stdin, flush=True)
        assert "wrote 65536" in guest.stdout.readline()
        for arguments in (("set", disk, *SPACE), ("remove", disk)):
            finished = allocpolicy("stamp", *arguments)
            assert finished.status == 0, finished.stderr
        print("write 64k 64k", file=guest.stdin, flush=True)
        guest.stdin.close()
        assert "wrote 65536" in guest.stdout.read()
    assert guest.returncode == 0


@on_all
@pytest.mark.parametrize("verb", ["set", "remove"])
def test_a_disk_that_is_being_rewritten_is_left_in_peace(
    directory: Path, verb: str
) -> None:
    disk = directory / "disk"
    provision(disk, "--size", "8M")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(disk, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        refused = allocpolicy("stamp", verb, disk, *(SPACE if verb == "set" else ()))
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
    assert refused.status == 2
    assert "being rewritten" in refused.stderr
    assert chosen(disk, "requested") == ("none", {})


def test_another_users_disk_gets_no_stamp() -> None:
    with ordinary_user.public_directory() as place:
        disk = place / "disk"
        disk.write_bytes(bytes(MIB))
        disk.chmod(0o644)
        raw = ("--format", "raw", "--strategy", "none")
        done = subprocess.run(
            ordinary_user.command(*command("stamp", "set", disk, *raw)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(OS_ALLOCPOLICY__LOCK_PATH=str(place)),
            cwd=place,
        )
        assert done.returncode in (2, 5), done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not stamps.is_visible(str(disk))
