"""The sizes of an instance's disks, as its flavor says them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import FlavorError, InvalidRequest
from allocpolicy.resolve import flavors
from allocpolicy.resolve.flavors import Flavor
from tests.harness import images
from tests.harness.cli import allocpolicy, provision

GIB, MIB = 1 << 30, 1 << 20
NAMES = {"root": "Disk", "ephemeral": "Ephemeral", "swap": "Swap"}
IN_BYTES = {"root": GIB, "ephemeral": GIB, "swap": MIB}


def openstack(path: Path, **sizes: object) -> Path:
    """Write what openstack flavor list --long -f json prints of a flavor."""
    path.write_text(json.dumps([{"Name": "m1", "ID": "1", "Properties": {}, **sizes}]))
    return path


@pytest.mark.parametrize("role", DiskRole)
@pytest.mark.parametrize("written", [40, "40"])
def test_openstacks_numbers_are_gib_and_of_swap_mib(
    role: DiskRole, written: object, tmp_path: Path
) -> None:
    path = openstack(tmp_path / "f.json", **{NAMES[role]: written})
    found = flavors.flavor(path, name="m1")
    assert found.sizes == {role: 40 * IN_BYTES[role]}
    assert found.size_of(role) == 40 * IN_BYTES[role]
    assert [found.size_of(one) for one in DiskRole if one is not role] == [None, None]


@pytest.mark.parametrize("none", [0, "0", "", None])
def test_0_is_no_disk_and_the_base_images_size_for_the_root(
    none: object, tmp_path: Path
) -> None:
    path = openstack(tmp_path / "f.json", Disk=none, Ephemeral=none, Swap=none)
    found = flavors.flavor(path, name="m1")
    assert found.size_of(DiskRole.ROOT) is None
    for role in (DiskRole.EPHEMERAL, DiskRole.SWAP):
        with pytest.raises(InvalidRequest, match=f"m1 in .* has no {role} disk"):
            found.size_of(role)


@pytest.mark.parametrize("wrong", [-1, 1.5, "40G", True, [40], 1 << 31])
def test_what_is_no_number_is_told(wrong: object, tmp_path: Path) -> None:
    path = openstack(tmp_path / "f.json", Disk=wrong)
    with pytest.raises(FlavorError, match=r"Disk: .* is not a whole number of GiB"):
        flavors.flavor(path, name="m1")


def test_a_file_of_ours_writes_them_as_the_command_line_does(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("flavors: {a: {sizes: {root: 1GB, ephemeral: 512, swap: 64 MiB}}}")
    assert flavors.flavor(path, name="a").sizes == {
        DiskRole.ROOT: 10**9,
        DiskRole.EPHEMERAL: 512,
        DiskRole.SWAP: 64 * MIB,
    }


@pytest.mark.parametrize("wrong", ["{rot: 1G}", "{root: 4x}", "{root: -1}", "[1]"])
def test_a_mistake_in_it_is_told_and_where(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(f"flavors: {{a: {{sizes: {wrong}}}, b: {{}}}}")
    [a, b] = flavors.entries(path)
    assert "$.flavors.a" in str(a.problem)
    assert b.flavor is not None


def test_a_script_may_write_them_so_as_well() -> None:
    given = Flavor(
        name="a", extra_specs={}, source=Path("f"), sizes={DiskRole.ROOT: "40G"}
    )
    assert given.size_of(DiskRole.ROOT) == 40 * GIB


def test_a_disk_has_its_flavors_size_unless_one_is_given(tmp_path: Path) -> None:
    path = openstack(tmp_path / "f.json", Disk=2, Ephemeral=1, Swap=0)
    chosen = ("--flavors", path, "--flavor", "m1", "--strategy", "none")
    disk = tmp_path / "disk"
    assert provision(disk, *chosen)["observed"]["virtual_size"] == 2 * GIB
    made = provision(tmp_path / "eph0", *chosen, "--disk", "ephemeral")
    assert made["observed"]["virtual_size"] == GIB
    made = provision(tmp_path / "given", *chosen, "--size", "1M")
    assert made["observed"]["virtual_size"] == MIB
    refused = allocpolicy("provision", tmp_path / "s", *chosen, "--disk", "swap")
    assert refused.status == 2
    assert "has no swap disk: its size is 0; give the disk's --size" in refused.stderr
    assert not (tmp_path / "s").exists()


def test_a_root_disk_of_0_has_its_base_images(tmp_path: Path) -> None:
    path = openstack(tmp_path / "f.json", Disk=0)
    base = tmp_path / "base"
    images.qemu_img("create", "-q", "-f", "qcow2", base, 3 * MIB)
    chosen = ("--flavors", path, "--flavor", "m1", "--strategy", "none")
    made = provision(tmp_path / "disk", "--base", base, *chosen)
    assert made["observed"]["virtual_size"] == 3 * MIB
    alone = allocpolicy("provision", tmp_path / "alone", *chosen)
    assert alone.status == 2
    assert "no size: give the disk a size, or a flavor that has one" in alone.stderr


def test_explain_tells_the_size_and_where_it_is_from(tmp_path: Path) -> None:
    path = openstack(tmp_path / "f.json", Disk=2, Swap=0)
    line = ("explain", "--flavors", path, "--flavor", "m1", "-f", "json", "--disk")
    for role, expected in (
        ("root", (2 * GIB, "won")),
        ("swap", (0, "0: no such disk")),
    ):
        rows = allocpolicy(*line, role).document
        [told] = [row for row in rows if row["subject"] == "size"]
        assert (told["value"], told["outcome"]) == expected
        assert str(path) in told["source"]
    assert not [
        row
        for row in allocpolicy(*line, "ephemeral").document
        if row["subject"] == "size"
    ]
