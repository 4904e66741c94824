"""A guest that writes to another file than its disk: external snapshots, and clones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    Change,
    DiskFormat,
    OnUnmet,
    Policy,
    RewriteLimits,
    apply_all,
    schema,
)
from tests.harness import images
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

SIZE = 16 * MIB
JSON = ("-f", "json")
INHERIT = {"OS_ALLOCPOLICY__SNAPSHOT_POLICY": "inherit"}

pytestmark = [pytest.mark.qemu, pytest.mark.filesystems("xfs")]


def audited(*arguments: object, status: int, **variables: str) -> dict[str, str]:
    """Audit, and return each disk's verdict and reason in one, by the disk's name.

    That a snapshot itself has no policy is told, too, and left out here.
    """
    finished = allocpolicy("-q", "audit", *arguments, *JSON, **variables)
    assert (finished.status, finished.stderr) == (status, "")
    rows: list[dict[str, Any]] = finished.document
    assert schema.validate(rows, schema=schema.load("audit")) == []
    return {
        Path(one["disk"]).name: f"{one['verdict']}: {one['reason']}"
        for one in rows
        if one["verdict"] != "no policy"
    }


def disk_in(directory: Path, *, format: str = "qcow2", name: str = "disk") -> Path:
    disk = directory / name
    arguments = ("--strategy", "space", "--format", format, "--size", SIZE)
    provision(disk, *arguments)
    return disk


def snapshot(
    disk: Path, name: object, *, backing: object = None, of: str = "qcow2"
) -> Path:
    """Put an overlay on a disk, as virsh snapshot-create-as --disk-only does."""
    top = disk.parent / str(name)
    arguments = ("-b", backing or disk, "-F", of)
    images.qemu_img("create", "-q", "-f", "qcow2", *arguments, top)
    return top


def uncovered(top: Path) -> str:
    return f"uncovered: the guest writes to {top}, which has no policy"


@contextmanager
def running(top: Path) -> Iterator[None]:
    """Let a QEMU have the disk open for writing, and its backing files for reading."""
    with images.held_by_qemu(top, format="qcow2"):
        yield


def test_a_snapshot_that_stays_short_of_its_policy_covers_nothing(
    directory: Path, tmp_path: Path
) -> None:
    """As the start of its VM leaves it, which doesn't flatten it."""
    disk = disk_in(directory)
    top = snapshot(disk, "top")
    wanted = Change(
        disk=top,
        format=DiskFormat.QCOW2,
        extra_specs={"allocpolicy:strategy": "performance"},
        limits=RewriteLimits(allowed=False),
    )
    policy = Policy(lock_path=tmp_path)
    (report,) = apply_all([wanted], policy=policy, on_unmet=OnUnmet.PASS)
    assert report.stamp is not None and report.unmet
    for place in (disk, directory):
        assert audited(place, status=1)["disk"] == uncovered(top)
    allocpolicy("apply", top, "--strategy", "space")
    assert audited(directory, status=0)["disk"].startswith("meets")


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_snapshot_is_reported_until_it_is_gone(directory: Path, format: str) -> None:
    """By the disk's name and by its directory; whoever is on top; running or not."""
    disk = disk_in(directory, format=format)
    assert audited(disk, status=0)["disk"].startswith("meets")
    first = snapshot(disk, "first", of=format)
    for place in (disk, directory):
        assert audited(place, status=1) == {"disk": uncovered(first)}
    second = snapshot(first, "second")
    with running(second):
        for place in (disk, directory):
            assert audited(place, status=1) == {"disk": uncovered(second)}
    images.qemu_img("commit", "-q", second)
    second.unlink()
    assert audited(disk, status=1) == {"disk": uncovered(first)}
    images.qemu_img("rebase", "-q", "-b", "", first)  # as blockpull
    assert audited(directory, status=0)["disk"].startswith("meets")


def test_a_disk_that_its_guest_writes_to_is_covered(directory: Path) -> None:
    """The overlay that a pivot left behind is no snapshot any more."""
    disk = disk_in(directory)
    old = snapshot(disk, "old")
    with running(disk):
        assert audited(disk, status=0)["disk"].startswith("meets")
    assert audited(disk, status=1) == {"disk": uncovered(old)}
    with running(old):
        assert audited(disk, status=1) == {"disk": uncovered(old)}


@pytest.mark.parametrize(
    "name",
    ["relative", "dotted", "link", "hard link", "spaced", "file:", "flat", "nested"],
)
def test_files_are_compared_whatever_the_name(directory: Path, name: str) -> None:
    place = directory / "with space" if name == "spaced" else directory
    place.mkdir(exist_ok=True)
    disk = disk_in(place)
    (directory / "link").symlink_to(place)
    backing: object = disk.name
    if name == "dotted":
        backing = f"../{directory.name}/./disk"
    elif name == "link":
        backing = directory / "link" / "disk"
    elif name == "hard link":
        backing = directory / "other"
        os.link(disk, backing)
    elif name == "file:":
        backing = f"file:{disk}"
    elif name == "flat":
        backing = f'json:{{"driver":"qcow2","file.filename":"{disk}"}}'
    elif name == "nested":
        file = f'{{"driver":"file","filename":"{disk}"}}'
        backing = f'json:{{"driver":"qcow2","file":{file}}}'
    top = snapshot(disk, "top", backing=backing)
    assert audited(directory, status=1)["disk"] == uncovered(top)


@pytest.mark.parametrize(
    "name",
    [
        *("nbd:host:10809", "json:{", 'json:{"file":' * 70, "json:[1]", "json:null"),
        *('json:{"filename":7}', 'json:{"file":"node"}', "file:disk", "x:/disk"),
        *("\\", "/", ".", "//nowhere", "/proc/self/mem", "a" * 1000),
    ],
)
def test_a_name_that_leads_to_no_known_file_uncovers_nothing(
    directory: Path, name: str
) -> None:
    disk = disk_in(directory)
    arguments = ("-u", "-b", name, "-F", "qcow2")
    images.qemu_img("create", "-q", "-f", "qcow2", *arguments, directory / "top", SIZE)
    found = audited(directory, status=0)
    assert found["disk"].startswith("meets")
    assert allocpolicy("apply", "--chain", disk).status == 0


def test_a_snapshot_elsewhere_is_found_where_it_is_looked_for(directory: Path) -> None:
    (directory / "snapshots").mkdir()
    disk = disk_in(directory)
    top = snapshot(disk, "snapshots/top")
    assert audited(disk, status=0)["disk"].startswith("meets")
    for paths in ([directory], [disk, directory / "snapshots"]):
        assert audited(*paths, status=1) == {"disk": uncovered(top)}


def test_what_has_a_policy_of_its_own_is_covered(directory: Path) -> None:
    """A stamp, or the policy that is given for disks without one; also below it."""
    disk = disk_in(directory)
    first = snapshot(disk, "first")
    given = ("--strategy", "none", "--format", "qcow2")
    assert {one[:5] for one in audited(directory, *given, status=0).values()} == {
        "meets",
        "unver",  # whose backing file is not opened
    }
    second = snapshot(first, "second")
    assert allocpolicy("apply", second, *given).status == 0
    found = audited(directory, status=0)
    assert [one[:5] for one in found.values()] == ["meets", "meets"]
    allocpolicy("apply", second, "--strategy", "space")
    assert audited(disk, status=0)["disk"].startswith("meets")


def test_a_template_names_its_clones(directory: Path) -> None:
    """Some of them; those with a policy don't matter."""
    disk = disk_in(directory)
    disk.chmod(0o444)
    clones = [snapshot(disk, f"clone-{number}") for number in range(5)]
    given = ("--strategy", "none", "--format", "qcow2")
    assert allocpolicy("apply", clones[0], *given).status == 0
    reason = audited(directory, status=1)["disk"]
    named = ", ".join(map(str, clones[1:4]))
    said = "4 guests share it and write to overlays on it, which have no policy"
    assert reason == f"uncovered: {said}: {named} and 1 more"


def test_a_disk_that_drifted_below_a_snapshot_says_both(directory: Path) -> None:
    disk = disk_in(directory)
    top = snapshot(disk, "top")
    subprocess.run(["fallocate", "-p", "-o", "8M", "-l", "4M", disk], check=True)
    reason = audited(disk, status=1)["disk"]
    assert reason.startswith(f"{uncovered(top)}; the disk: allocation is thin")


def test_a_header_in_a_raw_disk_is_no_snapshot(directory: Path) -> None:
    """Of one whose stamp says raw; of one that QEMU has open as raw."""
    disk = disk_in(directory)
    top = snapshot(disk, "top")
    header = top.read_bytes()
    top.unlink()
    raw = disk_in(directory, format="raw", name="raw")
    with raw.open("r+b") as file:
        file.write(header)
    assert audited(directory, status=0)["disk"].startswith("meets")
    other = directory / "other"
    other.write_bytes(header)
    os.truncate(other, SIZE)
    with images.held_by_qemu(other, format="raw"):
        assert audited(directory, status=0)["disk"].startswith("meets")
        assert len(audited(directory, status=0, **INHERIT)) == 2
        assert applied("--chain", disk)["disk"] == str(disk)
    with images.held_by_qemu(other, format="qcow2"):
        assert audited(disk, status=1)["disk"] == uncovered(other)


def test_a_chain_may_be_longer_than_anybody_makes_it(directory: Path) -> None:
    """Whoever may create files there doesn't end the audit."""
    disk = disk_in(directory, name="n0000")
    content = snapshot(disk, "n0001", backing="n0000").read_bytes()
    for number in range(1, 1500):
        header = content.replace(b"n0000", f"n{number - 1:04}".encode())
        (directory / f"n{number:04}").write_bytes(header)
    top = directory / "n1499"
    assert audited(disk, status=1)["n0000"] == uncovered(top)


def test_a_loop_of_overlays_ends(directory: Path) -> None:
    """Nothing opens it, and nothing is said of the disk that doesn't belong to it."""
    disk = disk_in(directory)
    top = snapshot(disk, "top")
    for name, backing in (("one", "two"), ("two", "one")):
        arguments = ("-u", "-b", directory / backing, "-F", "qcow2")
        images.qemu_img(
            "create", "-q", "-f", "qcow2", *arguments, directory / name, SIZE
        )
    assert audited(directory, status=1) == {"disk": uncovered(top)}


def applied(*arguments: object, status: int = 0, **variables: str) -> dict[str, Any]:
    """Apply, and return the only row."""
    finished = allocpolicy("apply", *arguments, *JSON, **variables)
    assert finished.status == status, finished.stderr
    (row,) = finished.document
    return dict(row)


def inspected(disk: Path, **variables: str) -> dict[str, Any]:
    finished = allocpolicy("inspect", disk, *JSON, **variables)
    assert finished.status == 0, finished.stderr
    document: dict[str, Any] = finished.document
    assert schema.validate(document, schema=schema.load("inspection")) == []
    return document


@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("named", ["disk", "first", "second"])
def test_apply_brings_the_topmost_overlay_to_the_chains_policy(
    directory: Path, format: str, named: str
) -> None:
    """Whichever of the chain is named, while a VM runs; then all is covered again."""
    disk = disk_in(directory, format=format)
    first = snapshot(disk, "first", of=format)
    second = snapshot(first, "second")
    assert audited(directory, status=1) == {"disk": uncovered(second)}
    with running(second):
        (before,) = [applied(directory / named, "--chain", "--dry-run")]
        row = applied(directory / named, "--chain")
    assert (before["outcome"], row["outcome"]) == ("planned", "changed")
    assert (row["disk"], row["strategy"]) == (str(second), "space")
    assert (row["allocation"], row["verdict"]) == ("reserved", "meets")
    found = audited(directory, status=0)
    assert sorted(found) == ["disk", "second"]
    assert applied(disk, "--chain")["outcome"] == "unchanged"
    images.qemu_img("commit", "-q", second)
    for one in (second, first):
        one.unlink()
    assert list(audited(directory, status=0)) == ["disk"]
    assert applied(disk, "--chain")["disk"] == str(disk)


def test_apply_of_several_overlays_asks_which(directory: Path) -> None:
    disk = disk_in(directory)
    tops = [snapshot(disk, name) for name in ("one", "two")]
    finished = allocpolicy("apply", "--chain", disk)
    assert finished.status == 2
    assert (
        f"2 overlays are on it; name the one to be changed: {tops[0]}, {tops[1]}"
        in (finished.stderr)
    )
    assert applied("--chain", tops[0])["disk"] == str(tops[0])


def test_only_a_named_overlay_is_rewritten(directory: Path) -> None:
    """A rewrite copies the disk below into what may be a raw disk with a header."""
    disk = directory / "disk"
    provision(disk, "--strategy", "performance", "--size", SIZE)
    top = snapshot(disk, "top")
    row = applied("--chain", disk, status=2)
    assert "name it instead" in row["reason"]
    assert audited(directory, status=1)["disk"] == uncovered(top)
    assert applied("--chain", top)["verdict"] == "meets"
    assert list(audited(directory, status=0)) == ["disk", "top"]


def test_a_snapshot_may_inherit_its_disks_policy(directory: Path) -> None:
    """Audit, inspect and apply take it as if it had the stamp; the newest alone."""
    disk = disk_in(directory)
    first = snapshot(disk, "first")
    second = snapshot(first, "second")
    found = audited(directory, status=1, **INHERIT)
    assert {name: verdict[:5] for name, verdict in found.items()} == {
        "disk": "meets",
        "second": "drift",
    }
    document = inspected(second, **INHERIT)
    assert document["stamp"] is None
    assert document["inherited_from"] == str(disk)
    assert document["verdict"]["judgement"] == "drifted"
    assert applied(second, status=0, **INHERIT)["verdict"] == "meets"
    assert len(audited(directory, status=0, **INHERIT)) == 2
    assert allocpolicy("inspect", first).status == 2


def test_what_is_no_snapshot_inherits_nothing(directory: Path) -> None:
    """A format that contradicts the disk's stamp, a disk without one, other files."""
    disk = disk_in(directory, format="raw")
    wrong = snapshot(disk, "wrong", of="raw")
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-b", disk, "-F", "qcow2", wrong)
    (directory / "bare").write_bytes(bytes(MIB))
    alone = snapshot(directory / "bare", "alone", of="raw")
    for one in (wrong, alone, directory / "bare"):
        assert allocpolicy("apply", one, **INHERIT).status == 2
    for one in (wrong, alone):
        assert allocpolicy("inspect", one, **INHERIT).status == 2
    finished = allocpolicy("inspect", directory / "bare", "-f", "json", **INHERIT)
    assert (finished.status, finished.document["stamp"]) == (0, None)
    assert "a disk without a policy" in finished.document["role"]
    assert "disk" in audited(directory, status=1, **INHERIT)
    finished = allocpolicy("apply", "--chain", wrong)
    assert finished.status == 2
    assert "inherits no policy" in finished.stderr
    assert "its stamp says raw, not qcow2" in finished.stderr


@pytest.mark.parametrize("named", ["disk", "top"])
def test_a_policy_that_is_given_goes_before_the_chains(
    directory: Path, named: str
) -> None:
    disk = disk_in(directory)
    snapshot(disk, "top")
    given = ("--strategy", "none")
    row = applied("--chain", directory / named, *given)
    assert (Path(row["disk"]).name, row["strategy"]) == ("top", "none")
    assert audited(directory, status=0)["top"].startswith("meets")


def test_inspect_and_resize_tell_of_a_snapshot(directory: Path) -> None:
    disk = disk_in(directory)
    assert inspected(disk)["uncovered"] is None
    top = snapshot(disk, "top")
    said = f"the guest writes to {top}, which has no policy"
    assert inspected(disk)["uncovered"] == said
    assert said in " ".join(allocpolicy("inspect", disk).stdout.split())
    finished = allocpolicy("resize", disk, "32M", *JSON)
    assert finished.status == 0
    assert said in finished.document["effective"]["reason"]
    assert schema.validate(finished.document, schema=schema.load("report")) == []


def test_a_snapshot_counts_for_the_ratio(directory: Path) -> None:
    """What may come by it is there for no other disk; a header in a raw disk isn't."""
    policy = {"OS_ALLOCPOLICY__MAX_OVERCOMMIT_RATIO": "1"}
    thin = ("--strategy", "none", "--size", "8M", *JSON)
    claimed = directory / "claimed"
    images.qemu_img("create", "-q", "-f", "qcow2", claimed, "60T")
    raw = directory / "raw"
    raw.write_bytes(claimed.read_bytes())
    os.truncate(raw, SIZE)
    claimed.unlink()
    first = allocpolicy("provision", directory / "first", *thin, **policy)
    assert first.status == 0, first.stderr
    base = directory / "base"
    images.qemu_img("create", "-q", "-f", "qcow2", base, "40G")
    base.chmod(0o444)
    top = snapshot(base, "top")
    finished = allocpolicy("provision", directory / "second", *thin, **policy)
    assert finished.status == 3
    assert not (directory / "second").exists()
    top.unlink()
    assert allocpolicy("provision", directory / "second", *thin, **policy).status == 0
