"""Images whose owner writes to them while root uses them: no disk has what he chose."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.storage import mount
from tests.harness import images, ordinary_user
from tests.harness.cli import allocpolicy, provision
from tests.harness.filesystems import mount as mount_filesystem
from tests.harness.filesystems import unmount
from tests.harness.images import MIB
from tests.harness.owner_at_work import Owner

pytestmark = pytest.mark.filesystems("ext4")


@pytest.fixture
def owner(directory: Path) -> Iterator[Owner]:
    """A user without rights, who reaches the test's directory by another way."""
    directory.chmod(0o755)
    with ordinary_user.public_directory() as public:
        reached = public / "reached"
        reached.mkdir()
        mount_filesystem(
            "none", source=directory, mount_point=reached, options=["bind"]
        )
        try:
            yield Owner(directory=public, inside=directory, reached=reached)
        finally:
            unmount(reached)


@pytest.fixture
def overlay(directory: Path) -> Iterator[tuple[Path, Path]]:
    """Give an overlay mount, where leases prove nothing, and its upper directory."""
    layers = {name: directory / name for name in ("lower", "upper", "work", "merged")}
    for layer in layers.values():
        layer.mkdir()
    options = [f"{name}dir={layers[name]}" for name in ("lower", "upper", "work")]
    merged = layers["merged"]
    mount_filesystem(
        "overlay", source=Path("overlay"), mount_point=merged, options=options
    )
    yield merged, layers["upper"]
    unmount(merged)


@pytest.fixture
def secret(directory: Path) -> Path:
    secret = directory / "secret"
    secret.write_bytes(b"secret\n".ljust(512) * (MIB // 512))
    secret.chmod(0o600)
    return secret


def raw(directory: Path) -> Path:
    path = directory / "image.raw"
    path.write_bytes(random.Random(3).randbytes(2 * MIB).ljust(4 * MIB, b"a"))
    return path


class TestHeaderThatChanges:
    """A compressed qcow2 is decompressed by qemu-img, if its header stays."""

    @pytest.fixture
    def base(self, directory: Path) -> Path:
        return images.convert(raw(directory), format="qcow2", compress=True)

    @pytest.fixture(params=["backing file", "data file"])
    def header(
        self, request: pytest.FixtureRequest, directory: Path, secret: Path
    ) -> Path:
        """Make a header, in a file of its own, that names the secret."""
        other = directory / "other"
        if request.param == "backing file":
            options = ("-F", "raw", "-b", secret)
            images.qemu_img("create", "-q", "-f", "qcow2", *options, other, 4 * MIB)
        else:
            option = f"data_file={secret},data_file_raw=on"
            kept = secret.read_bytes()
            images.qemu_img("create", "-q", "-f", "qcow2", "-o", option, other, 4 * MIB)
            secret.write_bytes(kept)
        other.chmod(0o644)
        return other

    def test_a_lease_keeps_it(
        self,
        directory: Path,
        base: Path,
        header: Path,
        owner: Owner,
    ) -> None:
        path = owner.around("convert", before=owner.overwrites(base, header))
        before = base.read_bytes()
        finished = allocpolicy(
            *("provision", directory / "disk", "--base", base),
            *("--strategy", "performance"),
            PATH=path,
        )
        assert owner.acted.exists()
        assert finished.status == 2, finished.stderr
        assert "opened it for writing" in finished.stderr
        assert not (directory / "disk").exists()
        assert base.read_bytes() == before

    def test_without_a_lease_we_read_what_we_checked(
        self,
        directory: Path,
        base: Path,
        header: Path,
        owner: Owner,
        overlay: tuple[Path, Path],
    ) -> None:
        """QEMU would read the header again."""
        merged, upper = overlay
        shutil.copy(base, upper / "base")
        path = owner.around("convert", before=owner.overwrites(upper / "base", header))
        disk = directory / "disk"
        arguments = ("--base", merged / "base", "--strategy", "performance")
        provision(disk, *arguments, PATH=path)
        assert not owner.acted.exists()
        assert images.same_content(disk, base, formats=("qcow2", "qcow2"))


def test_the_overlay_is_where_leases_prove_nothing(overlay: tuple[Path, Path]) -> None:
    merged, _ = overlay
    fd = os.open(merged, os.O_RDONLY)
    try:
        assert mount.of(fd).type == "overlay"
    finally:
        os.close(fd)
