"""The limits that qemu-img runs under are ours, or those that we were given."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allocpolicy import Order, Policy, provision, qemu_img
from allocpolicy.errors import Error, ImageError, NotEnoughSpace, WorkerLost
from allocpolicy.progress import unwatched
from allocpolicy.qemu_nodes import Image
from tests.harness import cli, filesystems, images, ordinary_user, vhd
from tests.harness.images import MIB

pytestmark = pytest.mark.system


@pytest.fixture
def public() -> Iterator[Path]:
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being another user takes root")
    with ordinary_user.public_directory() as directory:
        yield directory


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        (resource.RLIMIT_AS, 3_000_000 << 10),
        (resource.RLIMIT_CPU, 50),
        (resource.RLIMIT_FSIZE, 64 * MIB),
        (resource.RLIMIT_CORE, 0),
    ],
)
def test_a_lower_limit_that_we_were_given_is_kept(
    public: Path, limit: int, value: int
) -> None:
    """An ordinary user can't raise a hard limit: prlimit(1) would fail."""
    base = images.convert(
        images.make_base(public, size=16 * MIB), format="qcow2", compress=True
    )
    disk = public / "disk"
    finished = subprocess.run(
        ordinary_user.command(
            *cli.command("provision", disk, "--base", base, "--base-format", "qcow2"),
            *("--size", "32M", "--strategy", "performance"),
        ),
        capture_output=True,
        text=True,
        check=False,
        env=cli.environment(XDG_RUNTIME_DIR=str(public)),
        cwd=public,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
    )
    assert finished.returncode == 0, finished.stderr
    assert images.same_content(disk, base, formats=("qcow2", "qcow2"))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """An image of which QEMU reads a part, and then fails."""
    image, raw = tmp_path / "image.vmdk", tmp_path / "image.raw"
    raw.write_bytes(b"".join(b"%07d\n" % one for one in range(MIB)))
    options = ("-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized")
    subprocess.run(["qemu-img", "convert", *options, raw, image], check=True)
    with image.open("r+b") as file:
        file.seek(image.stat().st_size // 2)
        file.write(bytes(4096))
    return image


@pytest.mark.qemu
def test_a_command_learns_of_a_failure_whatever_its_parent_ignores(
    tmp_path: Path, damaged: Path
) -> None:
    """An ignored SIGCHLD is inherited, and the status of a child is lost by it."""
    finished = subprocess.run(
        cli.command("provision", tmp_path / "disk", "--base", damaged),
        capture_output=True,
        text=True,
        check=False,
        env=cli.environment(),
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )
    assert finished.returncode == 2, finished.stdout
    assert "it is damaged" in finished.stderr
    assert not (tmp_path / "disk").exists()


@pytest.mark.qemu
def test_where_nobody_knows_how_it_ended_it_has_failed(
    tmp_path: Path, damaged: Path
) -> None:
    """As in a program that ignores SIGCHLD."""
    order = Order(destination=tmp_path / "disk", base=damaged)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(WorkerLost, match="SIGCHLD"):
            provision(order, policy=Policy(configured=False))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not (tmp_path / "disk").exists()


@pytest.fixture
def decoy(tmp_path: Path) -> Path:
    """A file that only a header names; nothing but QEMU's nodes keeps it unread."""
    decoy = tmp_path / "decoy"
    decoy.write_bytes(b"secret" * MIB)
    return decoy


@pytest.mark.qemu
@pytest.mark.parametrize("format", ["qcow2", "vmdk"])
def test_a_backing_file_in_a_header_is_not_opened(
    tmp_path: Path, decoy: Path, format: str
) -> None:
    """Whatever was checked before, and however the header came to name it."""
    below = decoy
    if format == "vmdk":
        below = images.convert(decoy, format="vmdk")
    image = tmp_path / "image"
    below_format = "raw" if format == "qcow2" else format
    arguments = ("-q", "-f", format, "-F", below_format, "-b", below, image)
    images.qemu_img("create", *arguments)
    copied = tmp_path / "copied"
    with image.open("rb") as source, copied.open("wb") as target:
        target.truncate(decoy.stat().st_size)
        qemu_img.copy_into(
            Image(fd=source.fileno(), format=format, path=image),
            Image(fd=target.fileno(), format="raw", path=copied),
            progress=unwatched(""),
        )
    assert copied.read_bytes() == bytes(decoy.stat().st_size)


@pytest.mark.qemu
def test_a_backing_file_that_is_missing_is_not_missed(tmp_path: Path) -> None:
    """No subcommand looks for it."""
    image = tmp_path / "image"
    arguments = ("-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/no/such", image, MIB)
    images.qemu_img("create", *arguments)
    with image.open("rb") as file:
        opened = Image(fd=file.fileno(), format="qcow2", path=image)
        qemu_img.check(opened, virtual_size=MIB)
        assert qemu_img.measure(opened, format="raw", virtual_size=MIB) == MIB


@pytest.mark.qemu
def test_a_backing_file_in_a_targets_header_is_not_opened(
    tmp_path: Path, decoy: Path
) -> None:
    """A target with a name may be its owner's before it is finished."""
    size = decoy.stat().st_size
    source, target = tmp_path / "source", tmp_path / "target"
    images.qemu_img("create", "-q", "-f", "qcow2", source, size)
    options = ("-q", "-f", "qcow2", "-F", "raw", "-b", decoy)
    images.qemu_img("create", *options, target)
    images.qemu_io(source, "write -P 7 4k 4k", format="qcow2")
    with source.open("rb") as reading, target.open("r+b") as writing:
        qemu_img.copy_into(
            Image(fd=reading.fileno(), format="qcow2", path=source),
            Image(fd=writing.fileno(), format="qcow2", path=target),
            progress=unwatched(""),
        )
    assert b"secret" not in target.read_bytes()


class TestWhoIsAtFault:
    """The file that a message is about decides the error, and has its user's path."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        source = tmp_path / "source"
        images.qemu_img("create", "-q", "-f", "qcow2", source, MIB)
        images.qemu_io(source, "write -P 7 0 64k", format="qcow2")
        return source

    def copied(self, source: Path, target: Path, *, format: str = "qcow2") -> Error:
        """Return the error of copying a source; none of our names is in it."""
        target.touch()
        os.truncate(target, MIB)
        with (
            source.open("rb") as reading,
            target.open("r+b") as writing,
            pytest.raises(Error) as caught,
        ):
            qemu_img.copy_into(
                Image(fd=reading.fileno(), format=format, path=source),
                Image(fd=writing.fileno(), format="raw", path=target),
                progress=unwatched(""),
            )
        assert not re.search("/proc/|json:", str(caught.value))
        assert caught.value.__cause__ is not None
        return caught.value

    @pytest.mark.qemu
    def test_a_source_that_qemu_does_not_open(
        self, tmp_path: Path, source: Path
    ) -> None:
        """The largest vpc has 2040 GiB: "File too large" is not the storage's word."""
        large = tmp_path / "large"
        with large.open("wb") as file:
            file.truncate(3 << 40)
        vhd.write_footer(large, size=3 << 40)
        for broken, format in ((large, "vpc"), (source, "vmdk")):
            error = self.copied(broken, tmp_path / "target", format=format)
            assert isinstance(error, ImageError)
            assert error.path == broken

    @pytest.mark.qemu
    def test_a_source_that_a_vm_writes_to(self, tmp_path: Path, source: Path) -> None:
        with images.held_by_qemu(source, format="qcow2"):
            error = self.copied(source, tmp_path / "target")
        assert isinstance(error, ImageError)
        assert "lock" in error.reason

    @pytest.mark.qemu
    def test_a_target_that_a_vm_writes_to(self, tmp_path: Path, source: Path) -> None:
        target = tmp_path / "target"
        images.qemu_img("create", "-q", "-f", "qcow2", target, MIB)
        with images.held_by_qemu(target, format="qcow2"):
            error = self.copied(source, target)
        assert not isinstance(error, ImageError)
        assert str(error).startswith(f"{target}: ")
        assert "lock" in error.reason

    @pytest.mark.qemu
    def test_a_target_that_the_filesystem_refuses(
        self, fresh_filesystem: Callable[..., Path], source: Path
    ) -> None:
        full = fresh_filesystem("ext4", size=64 * MIB)
        for size in (MIB, 4096):
            with (
                (full / f"{size}").open("wb", buffering=0) as filler,
                contextlib.suppress(OSError),
            ):
                while True:
                    filler.write(bytes(size))
        error = self.copied(source, full / "target")
        assert isinstance(error, NotEnoughSpace)
        assert error.path == full / "target"
