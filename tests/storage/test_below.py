"""What lies below a filesystem: what can't keep a reservation is named."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.storage import below
from allocpolicy.storage.below import Layer
from tests.harness import cli, filesystems, ordinary_user
from tests.harness.images import MIB

SIZE = 320 * MIB
pytestmark = pytest.mark.system
KINDS = ("ext4", "xfs", "btrfs")


@pytest.fixture
def on_sparse(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Give a mount point of each kind, on a sparse file."""
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(
                filesystems.mounted(kind, size=SIZE, directory=tmp_path, sparse=True)
            )
            for kind in KINDS
        }


def layers(directory: Path) -> tuple[Layer, ...]:
    fd = os.open(directory, os.O_RDONLY)
    try:
        return below.layers(fd)
    finally:
        os.close(fd)


def document(*arguments: object) -> Any:
    """Return what a command prints as JSON, whatever its exit status."""
    return json.loads(cli.allocpolicy(*arguments, "-f", "json").stdout)


def test_a_sparse_loop_file_is_named_by_every_command(
    on_sparse: dict[str, Path],
) -> None:
    for mount_point in on_sparse.values():
        disk = mount_point / "disk"
        options = ("--size", 16 * MIB, "--format", "raw", "--strategy", "space")
        made = cli.provision(disk, *options)["observed"]
        inspected = document("inspect", disk)["observed"]
        probed = document("host", "probe", mount_point)
        audited = document("audit", disk)[0]["reason"]
        for seen in (made, inspected):
            assert not seen["guaranteed"]
            assert "sparse loop file" in seen["exception"]
        assert "sparse loop file" in probed["below"][0]["exception"]
        trials = [one for one in probed["strategies"] if one["strategy"] == "space"]
        assert not any(one["guaranteed"] for one in trials)
        assert "sparse loop file" in audited


@pytest.mark.filesystems("ext2", *KINDS)
def test_a_loop_file_with_storage_of_its_own_is_no_exception(directory: Path) -> None:
    found = layers(directory)
    assert found[0].kind == "loop"
    assert found[0].exception is None


@pytest.mark.filesystems("tmpfs")
def test_memory_has_no_device(directory: Path) -> None:
    assert layers(directory) == ()


def test_a_loop_file_on_a_filesystem_on_a_loop_file_is_followed(
    on_sparse: dict[str, Path],
) -> None:
    """To the first that is sparse; and btrfs moves what is overwritten."""
    with ExitStack() as stack:
        inner = {
            kind: stack.enter_context(
                filesystems.mounted("ext4", size=64 * MIB, directory=outer)
            )
            for kind, outer in on_sparse.items()
        }
        found = {kind: layers(one) for kind, one in inner.items()}
    for kind, seen in found.items():
        moved = "moves when it is overwritten" in (seen[0].exception or "")
        assert moved == (kind == "btrfs")
        assert "sparse loop file" in (seen[1].exception or "")


def test_an_ordinary_user_is_told_what_is_not_to_be_seen(
    on_sparse: dict[str, Path], tmp_path: Path
) -> None:
    """It is never told that there is no exception."""
    tmp_path.chmod(0o700)
    fds = [os.open(one, os.O_RDONLY) for one in on_sparse.values()]
    os.seteuid(ordinary_user.UID)
    try:
        said = [below.exception(fd) or "" for fd in fds]
    finally:
        os.seteuid(0)
        for fd in fds:
            os.close(fd)
    assert all("loop" in one for one in said)


@pytest.mark.parametrize(
    ("identity", "kind"),
    [
        ("LVM-" + "a" * 64, "device-mapper"),
        ("LVM-" + "a" * 64 + "-tpool", "thin"),
        ("LVM-" + "a" * 64 + "-vpool", "vdo"),
        ("LVM-" + "a" * 64 + "-cow", "snapshot"),
        ("CRYPT-LUKS2-0123-cryptdata", "device-mapper"),
        ("mpath-36001405", "device-mapper"),
        ("part1-mpath-36001405", "device-mapper"),
        ("stratis-1-0123-thin-fs-4567", "thin"),
        ("VDO-0123", "vdo"),
        ("", "unknown"),
    ],
)
def test_a_mapping_is_known_by_its_uuid(identity: str, kind: str) -> None:
    """And what is unknown is no ground to promise on."""
    found = below.mapped("name", identity)
    assert found.kind == kind
    assert (found.exception is None) == (kind == "device-mapper")


def test_compressed_memory_is_named(tmp_path: Path) -> None:
    added = Path("/sys/class/zram-control/hot_add")
    if os.geteuid() or not added.exists():
        raise filesystems.Unavailable("there is no zram")
    number = added.read_text().strip()
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text("64M")
        subprocess.run(
            ["mkfs.ext4", "-q", f"/dev/zram{number}"], check=True, capture_output=True
        )
        filesystems.mount(
            "ext4", source=Path(f"/dev/zram{number}"), mount_point=tmp_path, options=[]
        )
        try:
            assert "compressed" in (layers(tmp_path)[0].exception or "")
        finally:
            filesystems.unmount(tmp_path)
    finally:
        Path("/sys/class/zram-control/hot_remove").write_text(number)
