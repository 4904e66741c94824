"""``apply`` of a directory: each disk by its own policy, and nothing but disks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from allocpolicy.images import stamp as stamps
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB, qemu_img, qemu_io

SIZE = 8 * MIB
SPACE = ("--strategy", "space")
DEFAULT = "OS_ALLOCPOLICY__PREALLOCATE_IMAGES"
on_ext4 = pytest.mark.filesystems("ext4")
on_all = pytest.mark.filesystems("ext4", "xfs", "btrfs")


def applied(*arguments: object, **variables: str) -> dict[str, Any]:
    """Apply; return each disk's row by the disk's name."""
    finished = allocpolicy("apply", *arguments, "-f", "json", **variables)
    assert finished.status == 0, finished.stderr
    return {Path(row["disk"]).name: row for row in finished.document}


def outcomes(rows: dict[str, Any]) -> dict[str, str]:
    return {name: row["outcome"] for name, row in rows.items()}


@pytest.fixture
def fleet(directory: Path) -> Path:
    """Give a directory of disks: two keep to their policy, one below has drifted."""
    (directory / "below").mkdir()
    for name in ("kept", "thin", "below/drifted"):
        strategy = "none" if name == "thin" else "space"
        options = ("--strategy", strategy, "--format", "raw")
        provision(directory / name, *options, "--size", SIZE)
    qemu_io(
        directory / "below" / "drifted", "discard 0 4M", format="raw", discard="unmap"
    )
    qemu_img("create", "-q", "-f", "qcow2", directory / "base", SIZE)
    overlay = ("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", directory / "base")
    qemu_img(*overlay, directory / "unstamped")
    (directory / "notes").write_text("no disk\n")
    return directory


@on_all
def test_only_what_an_audit_finds_is_changed(fleet: Path) -> None:
    """Disks that drifted, and those that are outdated; a dry run changes neither."""
    planned = applied("--drifted", fleet, "--dry-run")
    assert outcomes(planned) == {"drifted": "planned"}
    assert outcomes(applied("--drifted", fleet)) == {"drifted": "changed"}
    assert applied("--drifted", fleet) == {}
    named = (fleet / "kept", fleet / "below" / "drifted")
    assert applied("--drifted", *named) == {}
    provision(fleet / "asked", "--format", "raw", "--size", SIZE)
    rows = applied("--drifted", fleet, **{DEFAULT: "space"})
    assert outcomes(rows) == {"asked": "changed"}
    refused = allocpolicy("apply", "--drifted", fleet, *SPACE)
    assert refused.status == 2
    assert "own policy" in refused.stderr


@on_all
def test_each_disk_of_a_directory_has_its_own_policy(fleet: Path) -> None:
    rows = applied(fleet)
    assert outcomes(rows) == {
        "drifted": "changed",
        "kept": "unchanged",
        "thin": "unchanged",
        "unstamped": "skipped",
    }
    assert "no stamp" in rows["unstamped"]["reason"]
    both = applied(fleet / "kept", fleet / "below")
    assert outcomes(both) == {"kept": "unchanged", "drifted": "unchanged"}


@on_all
def test_a_given_policy_is_for_disks_and_for_no_base_image(fleet: Path) -> None:
    rows = applied(fleet, "--strategy", "none", "--format", "qcow2")
    assert outcomes(rows) == {
        **dict.fromkeys(("drifted", "kept", "unstamped"), "changed"),
        "thin": "unchanged",
    }
    assert {row["mode"] for row in rows.values() if row["changed"]} == {"stamped"}
    assert stamps.is_visible(str(fleet / "unstamped"))
    for name in ("base", "notes"):
        assert not stamps.is_visible(str(fleet / name))


@on_ext4
def test_what_is_uncovered_in_a_directory_is_mended_with_its_chain(
    fleet: Path,
) -> None:
    """And no row says that the snapshot has no policy once another gave it one."""
    (fleet / "below" / "drifted").unlink()
    snapshot = fleet / "a snapshot"
    of_disk = ("-b", fleet / "kept", "-F", "raw")
    qemu_img("create", "-q", "-f", "qcow2", *of_disk, snapshot)
    assert applied("--drifted", fleet) == {}
    planned = applied("--drifted", "--chain", fleet, "--dry-run")
    assert outcomes(planned) == {"a snapshot": "planned"}
    finished = allocpolicy("apply", "--chain", fleet, "-f", "json")
    rows = [(Path(row["disk"]).name, row["outcome"]) for row in finished.document]
    assert sorted(rows) == [
        ("a snapshot", "changed"),
        ("thin", "unchanged"),
        ("unstamped", "skipped"),
    ]


@on_ext4
def test_a_disk_whose_stamp_is_malformed_is_no_base_image(fleet: Path) -> None:
    """Though a snapshot is on it."""
    of_disk = ("-b", fleet / "thin", "-F", "raw")
    qemu_img("create", "-q", "-f", "qcow2", *of_disk, fleet / "top")
    os.setxattr(fleet / "thin", stamps.XATTR, b"{")
    rows = allocpolicy("audit", fleet, "-f", "json").document
    said = {Path(row["disk"]).name: row["verdict"] for row in rows}
    assert said["thin"] == "unverifiable"


@on_ext4
def test_what_is_wrong_in_a_directory_is_told(fleet: Path) -> None:
    empty = fleet / "empty"
    empty.mkdir()
    told = allocpolicy("apply", fleet / "kept", empty, "-f", "json")
    assert told.status == 2
    assert f"{empty}: it is a directory, and there is no disk in it" in told.stderr
    assert [row["outcome"] for row in told.document] == ["unchanged", "failed"]
    gone = fleet / "gone"
    for paths in ((gone, fleet), (fleet, gone)):
        finished = allocpolicy("apply", "--drifted", *paths, "--dry-run", "-f", "json")
        assert finished.status == 2
        rows = {Path(row["disk"]).name: row["outcome"] for row in finished.document}
        assert rows == {"gone": "failed", "drifted": "planned"}
    os.setxattr(fleet / "thin", stamps.XATTR, b"{")
    finished = allocpolicy("apply", fleet, "-f", "json")
    assert finished.status == 2
    (line,) = finished.stderr.splitlines()
    assert f"{fleet / 'thin'}: its stamp" in line
    rows = {Path(row["disk"]).name: row["outcome"] for row in finished.document}
    assert rows["thin"] == "failed"
    assert rows["drifted"] == "changed"
