"""What is refused: exit 2, one line that says why, and nothing created."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB
from tests.harness.patience import PATIENCE

pytestmark = pytest.mark.filesystems("ext4")


def refused(directory: Path, *arguments: object, says: str) -> None:
    """The command exits 2 with one line that says so; the directory stays empty."""
    before = sorted(os.listdir(directory))
    finished = allocpolicy("provision", *arguments)
    assert finished.status == 2, finished.stderr
    assert finished.stdout == ""
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert says in finished.stderr
    assert sorted(os.listdir(directory)) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "0"], "positive multiple of 512"),
        (["--size", "-1"], "size '-1'"),
        (["--size=-5G"], "size '-5G'"),
        (["--size", "forty"], "size 'forty'"),
        (["--size", "1000"], "not a multiple of 512 bytes (a disk"),
        (["--size", "0.3K"], "whole number"),
        (["--size", "65T"], "at most 64"),
        (["--size", "40X"], "size '40X'"),
        ([], "no size"),
        (["--size", "1M", "--strategy", "spcae"], "did you mean 'space'"),
        (["--size", "1M", "--extra-spec", "allocpolicy:stategy=none"], "did you mean"),
        (
            ["--size", "1M", "--extra-spec", "allocpolicy:space.reserve=maybe"],
            "fallocate",
        ),
        (["--size", "1M", "--extra-spec", "nonsense"], "KEY=VALUE"),
        (["--size", "1M", "--disk-format", "vdi"], "allowed: qcow2, raw"),
        (["--size", "1M", "--format", "vdi"], ", qcow2, raw; see"),
        (["--size", "1M", "--disk", "boot"], "allowed: root, ephemeral, swap"),
        (["--size", "1M", "--mode", "0999"], "octal"),
        (["--size", "1M", "--owner", "nobody"], "USER:GROUP"),
        (["--size", "1M", "--owner", "no-such-user:nogroup"], "no user"),
        (["--size", "1M", "--flavor", "m1"], "--flavors"),
        (["--size", "1M", "--nonsense"], "unrecognized"),
        (
            [
                *("--size", "1M", "--format", "raw", "--strategy", "performance"),
                *("--extra-spec", "allocpolicy:performance.cluster_size=2M"),
            ],
            "cluster_size = 2M applies to qcow2 only",
        ),
    ],
)
def test_a_wrong_request(directory: Path, arguments: list[str], says: str) -> None:
    refused(directory, directory / "disk", *arguments, says=says)


def test_a_destination_that_exists_is_never_overwritten(directory: Path) -> None:
    disk = directory / "disk"
    disk.write_text("precious")
    refused(directory, disk, "--size", "1M", says="exists")
    assert disk.read_text() == "precious"


def test_a_dangling_symbolic_link_is_a_destination_that_exists(directory: Path) -> None:
    (directory / "disk").symlink_to(directory / "nowhere")
    refused(directory, directory / "disk", "--size", "1M", says="exists")


def test_destinations_that_are_no_place_for_a_file(directory: Path) -> None:
    refused(directory, directory / "no" / "disk", "--size", "1M", says="No such file")
    refused(directory, directory, "--size", "1M", says="directory")
    refused(directory, "nbd://localhost/x", "--size", "1M", says="network")
    refused(directory, "rbd:pool/x", "--size", "1M", says="network")
    refused(directory, "/dev/loop0", "--size", "1M", says="block device")


def test_a_file_whose_name_has_a_colon_is_a_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU would take it for a protocol; it gets absolute paths only."""
    monkeypatch.chdir(directory)
    (directory / "a:b").write_bytes(bytes(MIB))
    provision(Path("x:y"), "--base", "a:b", "--base-format", "raw", "--size", "2M")
    found = images.info(directory / "x:y", format="qcow2")
    assert found["backing-filename"] == str(directory / "a:b")
    document = allocpolicy("inspect", "x:y", "-f", "json").document
    assert document["observed"]["backing_chain"][0]["problem"] is None
    assert allocpolicy("apply", "x:y", "--strategy", "performance").status == 0


def test_a_read_only_filesystem(directory: Path, fresh_filesystem) -> None:  # type: ignore[no-untyped-def]
    mount_point = fresh_filesystem("ext4", options=("ro",))
    refused(directory, mount_point / "disk", "--size", "1M", says="read-only")


class TestBaseImages:
    """Images that are unsafe, malformed, busy or not what they are said to be."""

    @pytest.fixture
    def raw(self, tmp_path: Path) -> Path:
        return images.make_base(tmp_path, size=16 * MIB)

    def refuse(self, directory: Path, base: Path, *arguments: str, says: str) -> None:
        refused(directory, directory / "disk", "--base", base, *arguments, says=says)

    def test_missing_or_no_file(self, directory: Path, tmp_path: Path) -> None:
        self.refuse(directory, tmp_path / "no", says="No such file")
        self.refuse(directory, tmp_path, says="a directory")
        self.refuse(directory, Path("/dev/loop0"), says="block device")
        os.mkfifo(tmp_path / "fifo")
        self.refuse(directory, tmp_path / "fifo", says="special file")
        (tmp_path / "nothing").touch()
        self.refuse(directory, tmp_path / "nothing", says="empty")

    def test_content_that_is_not_the_declared_format(
        self, directory: Path, raw: Path
    ) -> None:
        qcow2 = images.convert(raw, format="qcow2")
        self.refuse(directory, raw, "--base-format", "qcow2", says="declared as qcow2")
        self.refuse(directory, qcow2, "--base-format", "raw", says="content is qcow2")
        self.refuse(directory, qcow2, "--base-format", "vmdk", says="declared as vmdk")

    def test_a_size_smaller_than_the_base_image(
        self, directory: Path, raw: Path
    ) -> None:
        self.refuse(directory, raw, "--size", "8M", says="larger than")

    def test_disks_that_start_empty_take_none(self, directory: Path, raw: Path) -> None:
        self.refuse(directory, raw, "--disk", "swap", says="starts empty")

    def test_a_backing_file(self, directory: Path, raw: Path, tmp_path: Path) -> None:
        overlay = tmp_path / "overlay.qcow2"
        images.qemu_img("create", "-f", "qcow2", "-b", raw, "-F", "raw", overlay)
        self.refuse(directory, overlay, says="backing file")

    def test_an_external_data_file(self, directory: Path, tmp_path: Path) -> None:
        image = tmp_path / "image.qcow2"
        option = f"data_file={tmp_path / 'data'}"
        images.qemu_img("create", "-f", "qcow2", "-o", option, image, "16M")
        self.refuse(directory, image, says="external data file")

    def test_encryption(self, directory: Path, tmp_path: Path) -> None:
        image = tmp_path / "image.qcow2"
        images.qemu_img(
            *("create", "-f", "qcow2", "--object", "secret,id=s,data=abc123"),
            *("-o", "encrypt.format=aes,encrypt.key-secret=s", image, "16M"),
        )
        self.refuse(directory, image, says="encrypt")

    def test_an_internal_snapshot(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="qcow2")
        images.qemu_img("snapshot", "-c", "before", image)
        self.refuse(directory, image, says="snapshot")

    def test_a_truncated_qcow2(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="qcow2")
        os.truncate(image, 200_000)
        self.refuse(directory, image, says=str(image))

    def test_compressed_data_that_is_none(
        self, directory: Path, tmp_path: Path
    ) -> None:
        """It is found when the data is read; an overlay leaves that to the guest."""
        raw = tmp_path / "base.raw"
        raw.write_text(random.Random(42).randbytes(4 * MIB).hex())
        image = images.convert(raw, format="qcow2", compress=True)
        size = image.stat().st_size
        with image.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"\xff" * (size // 4))
        self.refuse(directory, image, "--strategy", "performance", says="damaged")

    def test_a_table_that_points_past_the_end(self, directory: Path, raw: Path) -> None:
        image = images.convert(raw, format="qcow2")
        with image.open("r+b") as file:
            file.seek(40)  # l1_table_offset
            l1 = int.from_bytes(file.read(8), "big")
            file.seek(l1)
            file.write(((1 << 63) | (1 << 40)).to_bytes(8, "big"))
        self.refuse(directory, image, says=str(image))

    def test_one_that_qemu_has_open_for_writing(
        self, directory: Path, raw: Path
    ) -> None:
        command = ["qemu-io", "-f", "raw", "-c", "sleep 60000", str(raw)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as writer:
            try:
                wait_for_image_lock(raw)
                self.refuse(directory, raw, says="open for writing")
            finally:
                writer.kill()


def wait_for_image_lock(path: Path) -> None:
    """Wait until somebody has an OFD lock on the file, as the kernel lists them."""
    deadline = time.monotonic() + PATIENCE
    status = path.stat()
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    file = f"{major:02x}:{minor:02x}:{status.st_ino}"
    while not any(
        "OFDLCK" in line and file in line.split()
        for line in Path("/proc/locks").read_text().splitlines()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestFlavors:
    """Flavors files that are wrong, and flavors that are not there."""

    def refuse(self, directory: Path, flavors: Path, name: str, *, says: str) -> None:
        arguments = ["--size", "1M", "--flavors", flavors, "--flavor", name]
        refused(directory, directory / "disk", *arguments, says=says)

    def test_a_flavor_that_is_not_in_the_file(
        self, directory: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "flavors.json"
        path.write_text(json.dumps({"flavors": {"m1.fast": {"extra_specs": {}}}}))
        self.refuse(directory, path, "m1.fats", says="did you mean 'm1.fast'")

    def test_a_file_that_is_not_valid_says_where(
        self, directory: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "flavors.yaml"
        path.write_text("flavors:\n  m1: {extra_specs: {a:b: [1]}}\n")
        self.refuse(directory, path, "m1", says="m1")
        path.write_text("flavors: [\n")
        self.refuse(directory, path, "m1", says="line 2")
        self.refuse(directory, tmp_path / "no.yaml", "m1", says="No such file")
