"""Nothing goes silently green: what has no policy is told, counted and listed."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from allocpolicy import ImageError, Order, Policy, audit, schema
from allocpolicy import provision as made_of
from allocpolicy.images import stamp as stamps
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB, qemu_img

SIZE = 8 * MIB
JSON = ("-f", "json")
on_all = pytest.mark.filesystems("ext4", "xfs", "btrfs")


def verdicts(*arguments: object, status: int = 0) -> dict[str, str]:
    """Audit; return the verdict of each file by its name."""
    finished = allocpolicy("audit", *arguments, *JSON)
    assert finished.status == status, finished.stderr
    rows = finished.document
    assert schema.validate(rows, schema=schema.load("audit")) == []
    return {Path(row["disk"]).name: row["verdict"] for row in rows}


def summary(*arguments: object) -> str:
    """Return what an audit comes to."""
    (line,) = allocpolicy("audit", *arguments, *JSON).stderr.splitlines()
    return line.removeprefix("allocpolicy audit: ")


def metrics(directory: Path) -> dict[str, str]:
    textfile = directory.parent / "x.prom"
    allocpolicy("audit", directory, "--textfile", textfile)
    lines = textfile.read_text().splitlines()
    textfile.unlink()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def told(fleet: Path, name: str, *arguments: object) -> str:
    """Audit; return the reason in a disk's row."""
    rows = allocpolicy("audit", fleet, *arguments, "-f", "json").document
    return str(next(one["reason"] for one in rows if Path(one["disk"]).name == name))


def test_the_length_of_another_format_is_not_the_size_that_a_guest_sees(
    tmp_path: Path,
) -> None:
    """Nor is that of a disk whose stamp or header is invalid: it isn't known."""
    for format in ("qcow2", "qcow", "raw", "vmdk", "vdi", "vhdx"):
        qemu_img("create", "-q", "-f", format, tmp_path / format, SIZE)
    provision(tmp_path / "malformed", "--size", SIZE, "--strategy", "none")
    os.setxattr(tmp_path / "malformed", stamps.XATTR, b"{}")
    rows = allocpolicy("audit", tmp_path, *JSON).document
    sizes = {Path(one["disk"]).name: one["virtual_size"] for one in rows}
    known = {"qcow2": SIZE, "raw": SIZE}
    assert sizes == dict.fromkeys(("qcow", "vmdk", "vdi", "vhdx", "malformed")) | known
    assert all(isinstance(one["actual_size"], int) for one in rows)


@on_all
def test_a_fleet_that_was_never_stamped_is_all_told(directory: Path) -> None:
    """In every format, each disk; and nothing else."""
    fleet = directory / "fleet"
    fleet.mkdir()
    for format in ("qcow2", "raw", "vmdk", "vdi"):
        qemu_img("create", "-q", "-f", format, fleet / format, SIZE)
    (fleet / "flavors.yaml").write_text("flavors: {}\n")
    assert set(verdicts(fleet).values()) == {"no policy"}
    for advice in ("vmdk", "vdi"):
        assert f"its content is a {advice} image, and only qcow2 and raw" in told(
            fleet, advice
        )
    given = ("--format", "raw", "--strategy", "none")
    assert "does not look like a raw disk" in told(fleet, "qcow2", *given)
    assert set(verdicts(fleet, "--require-stamp", status=1)) == {
        *("qcow2", "raw", "vdi", "vmdk")
    }
    assert summary(fleet) == (
        "4 disks: 0 meet, 0 drifted, 4 without policy, 0 base images"
    )
    assert allocpolicy("-q", "audit", fleet).stderr == ""
    shown = metrics(fleet)
    assert shown["allocpolicy_unstamped_files"] == "4"
    assert shown["allocpolicy_audited_disks"] == "0"
    disk = f'disk="{fleet / "raw"}",strategy="",verdict="no policy"'
    assert shown[f"allocpolicy_disk_verdict{{{disk}}}"] == "1"
    assert any(name.startswith("allocpolicy_filesystem_promised") for name in shown)


FOREIGN = {
    "mono.vmdk": ("vmdk", "subformat=monolithicSparse"),
    "split.vmdk": ("vmdk", "subformat=twoGbMaxExtentSparse"),
    "vdi": ("vdi", ""),
    "vhdx": ("vhdx", ""),
    "fixed.vhd": ("vpc", "subformat=fixed"),
    "vhd": ("vpc", ""),
    "qed": ("qed", ""),
    "parallels": ("parallels", ""),
}
BY_PROVISION = "make one of it with provision --base"
CONVERTED = "convert it to qcow2 with qemu-img convert -f parallels first"
OF_A_PART = "make one of them all with provision --base and their descriptor"


def test_the_way_to_make_a_disk_of_another_format_is_one(tmp_path: Path) -> None:
    """It is done as each row says; not every format is a base image."""
    for name, (format, options) in FOREIGN.items():
        with_options = ("-o", options) if options else ()
        create = ("create", "-q", "-f", format, *with_options)
        qemu_img(*create, tmp_path / name, SIZE)
    rows = audit(tmp_path, policy=Policy(configured=False)).rows
    ways = {row.disk.name: row.reason.rpartition("; ")[2] for row in rows}
    parts = {"parallels": CONVERTED, "split-s001.vmdk": OF_A_PART}
    assert ways == dict.fromkeys(FOREIGN, BY_PROVISION) | parts
    for name in sorted(ways.keys() - parts.keys()):
        declared = "vpc" if name == "fixed.vhd" else None
        order = Order(
            destination=tmp_path / f"of-{name}",
            base=tmp_path / name,
            base_format=declared,
        )
        made = made_of(order, policy=Policy(configured=False))
        assert made.observed is not None
        assert made.observed.virtual_size >= SIZE
    part = Order(destination=tmp_path / "part", base=tmp_path / "split-s001.vmdk")
    with pytest.raises(ImageError, match="one of several files of a vmdk"):
        made_of(part, policy=Policy(configured=False))


@on_all
def test_a_base_image_is_known_by_any_name_of_it(directory: Path) -> None:
    """QEMU writes json:{...} into an overlay whose chain was given with options."""
    fleet = directory / "fleet"
    fleet.mkdir()
    base = fleet / "base"
    qemu_img("create", "-q", "-f", "qcow2", base, SIZE)
    named = f'json:{{"driver": "qcow2", "file.filename": "{base}"}}'
    of_base = ("-b", named, "-F", "qcow2", "-u")
    qemu_img("create", "-q", "-f", "qcow2", *of_base, fleet / "top", SIZE)
    assert set(verdicts(fleet)) == {"top"}
    capacity = allocpolicy("host", "capacity", fleet, *JSON).document
    assert (capacity["disks"], capacity["images"]) == (1, 1)


@on_all
@pytest.mark.parametrize("tool", [("cp", "--sparse=always"), ("rsync",), ("tar",)])
def test_a_copy_that_lost_its_stamp_is_found(
    directory: Path, tool: tuple[str, ...]
) -> None:
    place = directory / "disks"
    place.mkdir()
    disk, moved = place / "disk", directory / "moved"
    provision(disk, "--strategy", "space", "--format", "raw", "--size", SIZE)
    assert verdicts(place, "--require-stamp") == {"disk": "meets"}
    disk.rename(moved)
    if tool == ("tar",):
        archive = directory / "archive.tar"
        subprocess.run(["tar", "-cf", archive, "-C", directory, "moved"], check=True)
        subprocess.run(["tar", "-xf", archive, "-C", place], check=True)
        (place / "moved").rename(disk)
    elif tool == ("rsync",):
        disk.write_bytes(moved.read_bytes())  # what it does without -X
    else:
        subprocess.run([*tool, moved, disk], check=True)
    assert verdicts(place, "--require-stamp", status=1) == {"disk": "no policy"}


def write_iso(path: Path) -> None:
    descriptor = b"\x01CD001\x01".ljust(80, b"\0") + struct.pack("<I", MIB // 2048)
    path.write_bytes((bytes(16 * 2048) + descriptor).ljust(MIB, b"\0"))


@pytest.fixture
def mixed(directory: Path) -> Path:
    """Give a directory of disks, and of what else lies beside disks."""
    base = directory / "base"
    qemu_img("create", "-q", "-f", "qcow2", base, SIZE)
    provision(directory / "disk", "--base", base, "--base-format", "qcow2")
    overlay = ("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b")
    qemu_img(*overlay, directory / "disk", directory / "snapshot")
    qemu_img(*overlay, directory / "snapshot", directory / "second")
    qemu_img("create", "-q", "-f", "raw", directory / "golden", SIZE)
    (directory / "golden").chmod(0o444)
    (directory / "_base").mkdir()
    qemu_img("create", "-q", "-f", "raw", directory / "_base" / "cached", SIZE)
    write_iso(directory / "iso")
    (directory / "notes").write_text("no disk\n" * 20_000)
    return directory


@on_all
def test_base_images_and_isos_are_counted_and_can_be_listed(mixed: Path) -> None:
    """They need no policy; a file in the middle of a chain is a disk."""
    disks = {"disk": "uncovered", "second": "no policy", "snapshot": "no policy"}
    others = dict.fromkeys(("base", "golden", "cached", "iso"), "passed over")
    assert verdicts(mixed, status=1) == disks
    assert verdicts(mixed, "--all", status=1) == disks | others
    assert summary(mixed) == (
        "3 disks: 0 meet, 0 drifted, 1 uncovered, 2 without policy, 3 base images,"
        " 1 ISO image"
    )
    assert metrics(mixed)["allocpolicy_base_images"] == "3"


@on_all
def test_a_prepared_disk_is_counted_as_one(directory: Path) -> None:
    provision(directory / "disk", "--size", SIZE)
    cache = directory / "_base"
    cache.mkdir()
    prepared = cache / f"{'0' * 64}.prepared.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", prepared, SIZE)
    shown = {"disk": "meets", prepared.name: "passed over"}
    assert verdicts(directory, "--all") == shown
    assert summary(directory) == (
        "1 disk: 1 meet, 0 drifted, 0 without policy, 0 base images, 1 prepared disk"
    )


@on_all
def test_capacity_lists_what_it_counts_and_as_what(mixed: Path) -> None:
    """What is no disk promises nothing, whatever its size; the sums are the list's."""
    shown = allocpolicy("host", "capacity", mixed, "--disks", *JSON).document
    assert schema.validate(shown, schema=schema.load("capacity")) == []
    kinds = {Path(one["path"]).name: one["kind"] for one in shown["listed"]}
    assert kinds == {
        "disk": "disk",
        **dict.fromkeys(("snapshot", "second"), "disk without a stamp"),
        **dict.fromkeys(("base", "golden", "cached"), "base image"),
        "iso": "ISO image",
        "notes": "other file",
    }
    assert (shown["disks"], shown["unstamped"], shown["images"]) == (3, 2, 5)
    promised = {one["kind"]: one["promised"] for one in shown["listed"]}
    assert promised["base image"] == promised["ISO image"] == 0
    total = sum(one["promised"] for one in shown["listed"])
    assert total == shown["promised"] > 3 * SIZE
    table = allocpolicy("host", "capacity", mixed, "--disks").stdout
    assert f" other file {mixed / 'notes'}" in " ".join(table.split())
    assert allocpolicy("host", "capacity", mixed, *JSON).document["listed"] is None


@on_all
def test_a_policy_that_is_given_is_not_for_base_images(mixed: Path) -> None:
    """Nor for what is no raw disk, where that is said of all."""
    given = ("--strategy", "space", "--format")
    found = verdicts(mixed, *given, "qcow2", status=1)
    assert found.keys() == {"disk", "snapshot", "second"}
    assert verdicts(mixed, *given, "raw", status=1) == {
        "disk": "uncovered",
        "snapshot": "no policy",
        "second": "no policy",
    }


def test_a_file_that_is_named_is_told_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no disk")
    assert verdicts(tmp_path / "notes") == {"notes": "no policy"}
    assert verdicts(tmp_path) == {}


@on_all
def test_a_stamp_makes_a_disk_of_anything(mixed: Path) -> None:
    """A base image below others too: it is a disk, with the policy of its stamp."""
    finished = allocpolicy(
        *("apply", mixed / "golden", "--format", "raw", "--strategy", "none")
    )
    assert finished.status == 0, finished.stderr
    assert verdicts(mixed, status=1)["golden"] == "meets"
    assert stamps.is_visible(str(mixed / "golden"))
