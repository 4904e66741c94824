"""Images whose owner writes to them while root uses them: no disk has what he chose."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.storage import mount
from tests.harness import images, owner_at_work
from tests.harness.cli import allocpolicy, provision
from tests.harness.filesystems import mount as mount_filesystem
from tests.harness.filesystems import unmount
from tests.harness.image_hash import image_hash
from tests.harness.images import MIB
from tests.harness.owner_at_work import Owner

pytestmark = pytest.mark.filesystems("ext4")


@pytest.fixture
def owner(directory: Path) -> Iterator[Owner]:
    with owner_at_work.owner(directory) as owner:
        yield owner


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


class TestConversion:
    """An entry that a hash names holds what has that hash, whoever owns the image."""

    @pytest.fixture
    def vmdk(self, directory: Path) -> Path:
        return images.convert(raw(directory), format="vmdk")

    def flip(self, owner: Owner, vmdk: Path, directory: Path) -> str:
        """Change a sector of data for the conversion, then restore it and its date."""
        place = 1 * MIB
        genuine, forged, dates = (directory / name for name in ("was", "is", "dates"))
        genuine.write_bytes(vmdk.read_bytes()[place : place + 512])
        forged.write_bytes(b"forged".ljust(512))
        dates.touch()
        shutil.copystat(vmdk, dates)
        for path in (genuine, forged):
            path.chmod(0o644)
        return owner.around(
            "convert",
            before=owner.overwrites(vmdk, forged, offset=place),
            after="; ".join(
                (
                    owner.overwrites(vmdk, genuine, offset=place),
                    owner.redates(vmdk, dates),
                )
            ),
        )

    def test_a_lease_shows_who_writes(
        self, directory: Path, vmdk: Path, owner: Owner
    ) -> None:
        before = sorted(directory.iterdir())
        path = self.flip(owner, vmdk, directory)
        finished = allocpolicy(
            "provision", directory / "disk", "--base", vmdk, PATH=path
        )
        assert owner.acted.exists()
        assert finished.status == 2, finished.stderr
        assert "opened it for writing" in finished.stderr
        assert not (directory / "_base").exists()
        assert not (directory / "disk").exists()
        assert set(before) <= set(directory.iterdir())

    def test_without_a_lease_a_private_copy_is_hashed_and_converted(
        self,
        directory: Path,
        vmdk: Path,
        owner: Owner,
        overlay: tuple[Path, Path],
    ) -> None:
        merged, upper = overlay
        shutil.copy(vmdk, upper / "image")
        path = self.flip(owner, upper / "image", directory)
        disk = directory / "disk"
        report = provision(disk, "--base", merged / "image", PATH=path)
        assert owner.acted.exists()
        entry = Path(report["observed"]["backing_file"])
        digest = image_hash(vmdk)
        assert entry.name.partition(".")[0] == digest
        assert images.same_content(entry, vmdk, formats=("raw", "vmdk"))

    def test_a_remembered_hash_never_names_a_new_entry(
        self, directory: Path, vmdk: Path
    ) -> None:
        """It may be that of bytes which the image no longer has."""
        provision(directory / "one", "--base", vmdk)
        (entry,) = (directory / "_base").glob("*.raw")
        (remembered,) = (directory / "_base" / ".memo").iterdir()
        remembered.write_text("1" * 64)
        report = provision(directory / "two", "--base", vmdk)
        assert report["observed"]["backing_file"] == str(entry)


def test_the_overlay_is_where_leases_prove_nothing(overlay: tuple[Path, Path]) -> None:
    merged, _ = overlay
    fd = os.open(merged, os.O_RDONLY)
    try:
        assert mount.of(fd).type == "overlay"
    finally:
        os.close(fd)
