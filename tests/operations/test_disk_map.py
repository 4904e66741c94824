"""A map gives each disk of an existing host its format and its policy, in one go."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allocpolicy.images import stamp as stamps
from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

MAP = """
disks:
- {path: vm/old.raw, format: raw, strategy: none}
- {path: "vm/*.raw", format: raw, strategy: space, options: {reserve: fallocate}}
- {path: "vm/**/*.qcow2", format: qcow2, strategy: performance}
- {path: "gone/**", format: raw, strategy: none}
"""
JSON = ("-f", "json")
pytestmark = pytest.mark.filesystems("ext4")


@pytest.fixture
def vm(directory: Path) -> Path:
    """Give a directory with disks without stamps, and one that has its own."""
    (directory / "map.yaml").write_text(MAP)
    vm = directory / "vm"
    (vm / "deep").mkdir(parents=True)
    for name in ("old.raw", "new.raw"):
        with (vm / name).open("wb") as file:
            file.truncate(MIB)
    images.qemu_img("create", "-q", "-f", "qcow2", vm / "deep" / "a.qcow2", "8M")
    images.qemu_img("create", "-q", "-f", "qcow2", vm / "no.raw", "8M")
    provision(vm / "own.raw", "--size", "1M", "--strategy", "none", "--format", "raw")
    (vm / "notes").write_text("no disk")
    (vm / "other.img").write_bytes(bytes(MIB))
    return vm


def rows(*arguments: object, status: int, key: str) -> dict[str, tuple[object, ...]]:
    """Run a command; return each disk's strategy and outcome or verdict by its name."""
    done = allocpolicy(*arguments, *JSON)
    assert done.status == status, done.stderr
    assert "disks[3] ('gone/**'): no disk has it first" in done.stderr
    return {
        Path(one["disk"]).name: (one["strategy"], one[key]) for one in done.document
    }


def test_an_audit_judges_each_by_its_entry(vm: Path) -> None:
    """A stamp wins; what an entry's format doesn't fit, or none matches, has none."""
    given = ("audit", vm, "--map", vm.parent / "map.yaml")
    assert rows(*given, status=1, key="verdict") == {
        "a.qcow2": ("performance", "drifted"),
        "new.raw": ("space", "drifted"),
        "no.raw": (None, "no policy"),
        "old.raw": ("none", "meets"),
        "other.img": (None, "no policy"),
        "own.raw": ("none", "meets"),
    }
    said = {one["disk"]: one["reason"] for one in allocpolicy(*given, *JSON).document}
    assert "does not look like a raw disk" in said[str(vm / "no.raw")]
    assert (
        f"no entry of {vm.parent / 'map.yaml'} matches" in said[str(vm / "other.img")]
    )


def test_apply_brings_each_to_its_entry(vm: Path) -> None:
    given = ("apply", vm, "--map", vm.parent / "map.yaml")
    planned = rows(*given, "--dry-run", status=0, key="outcome")
    assert planned["new.raw"] == ("space", "planned")
    done = rows(*given, status=0, key="outcome")
    assert done == {
        "a.qcow2": ("performance", "changed"),
        "new.raw": ("space", "changed"),
        "no.raw": (None, "skipped"),
        "old.raw": ("none", "changed"),
        "other.img": (None, "skipped"),
        "own.raw": ("none", "unchanged"),
    }
    assert images.fully_mapped(vm / "deep" / "a.qcow2")
    assert (vm / "new.raw").stat().st_blocks * 512 >= MIB
    again = rows(*given, status=0, key="outcome")
    assert {outcome for _, outcome in again.values()} == {"unchanged", "skipped"}
    named = ("apply", vm / "old.raw", "--map", vm.parent / "map.yaml", *JSON)
    assert allocpolicy(*named).document[0]["outcome"] == "unchanged"


@pytest.mark.parametrize("command", ["apply", "stamp all"])
def test_a_link_is_the_disk_that_it_leads_to(vm: Path, command: str) -> None:
    """By its path, and by its stamp, which wins."""
    links = [vm.parent / name for name in ("a", "own")]
    for link, name in zip(links, ("deep/a.qcow2", "own.raw"), strict=True):
        link.symlink_to(vm / name)
    given = (*command.split(), *links, "--map", vm.parent / "map.yaml", *JSON)
    done = {"apply": "changed", "stamp all": "stamped"}[command]
    outcomes = [one["outcome"] for one in allocpolicy(*given).document]
    assert outcomes == [done, "unchanged"]
    (row,) = allocpolicy("audit", vm / "own.raw", *JSON).document
    assert row["strategy"] == "none"


def test_stamp_all_records_and_changes_no_disk(vm: Path) -> None:
    given = ("stamp", "all", vm, "--map", vm.parent / "map.yaml")
    before = {one: one.read_bytes() for one in vm.rglob("*") if one.is_file()}
    expected: dict[str, tuple[object, ...]] = {
        "a.qcow2": ("performance", "stamped"),
        "new.raw": ("space", "stamped"),
        "no.raw": (None, "skipped"),
        "old.raw": ("none", "stamped"),
        "other.img": (None, "skipped"),
        "own.raw": (None, "unchanged"),
    }
    planned = rows(*given, "--dry-run", status=0, key="outcome")
    assert {name for name, (_, word) in planned.items() if word == "planned"} == {
        name for name, (_, word) in expected.items() if word == "stamped"
    }
    assert not stamps.is_visible(os.fspath(vm / "new.raw"))
    assert rows(*given, status=0, key="outcome") == expected
    again = rows(*given, status=0, key="outcome")
    assert {outcome for _, outcome in again.values()} == {"unchanged", "skipped"}
    assert before == {one: one.read_bytes() for one in before}
    verdicts = rows("audit", vm, *given[3:], status=1, key="verdict")
    assert verdicts["old.raw"] == ("none", "meets")
    assert verdicts["new.raw"] == ("space", "drifted")


def test_a_dry_run_of_stamp_all_finds_what_would_fail(vm: Path) -> None:
    """Each outcome but the last word, each verdict and the exit status are the same."""
    (vm / "deep" / "cut.qcow2").write_bytes(b"QFI\xfb")
    (vm / "fixed.raw").write_bytes(bytes(MIB))
    with fixed(vm / "fixed.raw"):
        named = (vm, vm / "gone.raw", vm / "lost.img")
        given = ("stamp", "all", *named, "--map", vm.parent / "map.yaml", *JSON)
        planned, done = allocpolicy(*given, "--dry-run"), allocpolicy(*given)
    assert (planned.status, done.status) == (2, 2)
    foreseen, true = (
        {
            Path(one["disk"]).name: (one["strategy"], one["verdict"], one["outcome"])
            for one in finished.document
        }
        for finished in (planned, done)
    )
    for name in ("cut.qcow2", "fixed.raw", "gone.raw", "lost.img"):
        assert true[name][-1] == "failed", name
    said = {one["disk"]: one["reason"] for one in done.document}
    assert "No such file" in said[str(vm / "lost.img")]
    assert true == {
        name: (*row, "stamped" if outcome == "planned" else outcome)
        for name, (*row, outcome) in foreseen.items()
    }
    assert ("space", "drifted", "stamped") in true.values()


def test_stamp_all_records_one_policy_by_several_names(vm: Path) -> None:
    """A disk that has a stamp keeps it, also if it got that by another name."""
    (vm / "old.raw").rename(vm / "z.raw")
    os.link(vm / "new.raw", vm / "old.raw")
    given = ("stamp", "all", vm, "--map", vm.parent / "map.yaml")
    done = rows(*given, status=0, key="outcome")
    assert done["new.raw"] == ("space", "stamped")
    assert done["old.raw"] == (None, "unchanged")


@contextmanager
def fixed(path: Path) -> Iterator[None]:
    """Have a file that nobody may change."""
    subprocess.run(["chattr", "+i", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize(
    "beside",
    [
        ("--strategy", "none"),
        ("--disk-format", "raw"),
        ("--force",),
        ("--extra-spec", "allocpolicy:strategy=none"),
    ],
)
@pytest.mark.parametrize("command", ["audit", "apply"])
def test_a_map_and_a_policy_for_all_are_refused(
    vm: Path, command: str, beside: tuple[str, ...]
) -> None:
    given = ("--map", vm.parent / "map.yaml")
    done = allocpolicy(command, vm, *given, *beside)
    assert (done.status, done.stdout) == (2, "")
    assert f"leave {beside[0]} out" in done.stderr
