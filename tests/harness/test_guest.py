"""The guest that other tests rely on sees its disks as they are, and says so."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.harness.filesystems import require_program, run
from tests.harness.guest import GuestDisk, GuestFailed, run_guest

pytestmark = pytest.mark.system

MIB = 1 << 20
BLOCK = 4096


def ext4_image(path: Path, *, files: dict[str, bytes]) -> None:
    """Make a raw image of an ext4 filesystem that holds some files."""
    tree = path.with_suffix(".tree")
    tree.mkdir()
    for name, content in files.items():
        (tree / name).write_bytes(content)
    run(require_program("mke2fs"), "-q", "-t", "ext4", "-d", tree, path, "32M")


def sparse_image(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(8 * MIB)
    return path


def test_a_guest_reads_what_the_host_wrote(tmp_path: Path) -> None:
    """Raw and qcow2, told apart by serial, with the same checksums as outside."""
    files = {
        "a": bytes(range(256)) * 999,
        "b": hashlib.shake_128(b"b").digest(3 * MIB),
    }
    raw, qcow2 = tmp_path / "raw", tmp_path / "qcow2"
    ext4_image(raw, files=files)
    run("qemu-img", "convert", "-O", "qcow2", raw, qcow2)
    output = run_guest(
        "set -e\n"
        "for disk in raw qcow2; do\n"
        "    mount -t ext4 -o ro,noload /dev/disk-$disk /mnt\n"
        "    (cd /mnt; sha256sum a b)\n"
        "    umount /mnt\n"
        "done\n",
        disks=[
            GuestDisk(path=qcow2, format="qcow2", serial="qcow2", cache="writeback"),
            GuestDisk(path=raw, format="raw", serial="raw", readonly=True),
        ],
    )
    sums = [
        f"{hashlib.sha256(content).hexdigest()}  {name}"
        for name, content in files.items()
    ]
    assert output.splitlines() == sums + sums


def test_what_a_guest_writes_is_on_the_disk(tmp_path: Path) -> None:
    """A command that is done in the guest, and synced, is done on the host."""
    image = sparse_image(tmp_path / "image")
    run_guest(
        f"yes | dd of=/dev/disk-data bs={BLOCK} seek=3 count=1 iflag=fullblock"
        " conv=fsync",
        disks=[GuestDisk(path=image, format="raw", serial="data")],
    )
    content = image.read_bytes()
    assert content[3 * BLOCK : 4 * BLOCK] == b"y\n" * (BLOCK // 2)
    assert content.count(0) == len(content) - BLOCK


@pytest.mark.parametrize(("discard", "kept"), [("ignore", True), ("unmap", False)])
def test_discard_is_what_was_asked_for(
    tmp_path: Path, discard: str, kept: bool
) -> None:
    """A guest's discard punches holes into the host's file only by ``unmap``."""
    image = tmp_path / "image"
    image.write_bytes(b"\1" * 8 * MIB)
    disk = GuestDisk(path=image, format="raw", serial="data", discard=discard)
    run_guest("blkdiscard /dev/disk-data", disks=[disk])
    assert (image.stat().st_blocks > 0) is kept


def test_a_script_that_fails_is_reported() -> None:
    """With its status, and with what it said until then, and no more."""
    with pytest.raises(GuestFailed) as caught:
        run_guest("echo so far\nexit 7\n", disks=[])
    assert caught.value.status == 7
    assert caught.value.output == "so far\n"


def test_a_script_that_hangs_is_reported() -> None:
    """After the timeout, with what it said until then."""
    with pytest.raises(GuestFailed, match="did not end") as caught:
        run_guest("echo so far\nsleep 1000\n", disks=[], timeout=10)
    assert caught.value.output == "so far\n"
