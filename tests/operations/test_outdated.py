"""A disk whose policy changed is outdated; one that is expected in vain is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from allocpolicy import Attached, audit, schema
from allocpolicy.images import stamp as stamps
from tests.harness.cli import allocpolicy, provision
from tests.harness.images import MIB

SIZE = 8 * MIB
JSON = ("-f", "json")
DEFAULT = "OS_ALLOCPOLICY__PREALLOCATE_IMAGES"
on_all = pytest.mark.filesystems("ext4", "xfs", "btrfs")
on_ext4 = pytest.mark.filesystems("ext4")


def audited(*arguments: object, status: int, **variables: str) -> dict[str, str]:
    """Audit; return each disk's verdict and reason in one, by the disk's name."""
    finished = allocpolicy("audit", *arguments, *JSON, **variables)
    assert finished.status == status, finished.stderr
    rows = finished.document
    assert schema.validate(rows, schema=schema.load("audit")) == []
    return {
        Path(one["disk"]).name: f"{one['verdict']}: {one['reason']}" for one in rows
    }


def flavors(directory: Path, **specs: dict[str, str]) -> Path:
    """Write a flavors file, of flavors by their extra specs."""
    file = directory / "flavors.json"
    content = {name: {"extra_specs": one} for name, one in specs.items()}
    file.write_text(json.dumps({"flavors": content}))
    return file


def specs(strategy: str, **options: str) -> dict[str, str]:
    named = {f"allocpolicy:{strategy}.{name}": value for name, value in options.items()}
    return {"allocpolicy:strategy": strategy} | named


@on_all
def test_a_changed_flavor_outdates_its_disks_and_apply_mends_them(
    directory: Path,
) -> None:
    disk = directory / "disk"
    file = flavors(directory, small=specs("none"))
    chosen = ("--flavors", file, "--flavor", "small")
    provision(disk, *chosen, "--size", SIZE, "--format", "raw")
    recorded = json.loads(os.getxattr(disk, stamps.XATTR))
    assert schema.validate(recorded, schema=schema.load("stamp")) == []
    assert recorded["asked"] == {"flavor": "small", "disk": "root", "extra_specs": {}}
    assert audited(disk, "--flavors", file, status=0)["disk"].startswith("meets")

    flavors(directory, small=specs("performance", data="falloc"))
    assert audited(disk, status=0)["disk"].startswith("meets")  # it isn't known
    said = audited(disk, "--flavors", file, status=1)["disk"]
    assert said.startswith("outdated: ")
    assert "it is performance, and was none" in said
    assert "flavor small" in said
    line = f'disk="{disk}",strategy="none",verdict="outdated"}} 1\n'
    textfile = directory / "x.prom"
    allocpolicy("audit", disk, "--flavors", file, "--textfile", textfile)
    assert line in textfile.read_text()

    finished = allocpolicy("apply", disk, "--flavors", file, *JSON)
    assert finished.status == 0, finished.stderr
    assert audited(disk, "--flavors", file, status=0)["disk"].startswith("meets")
    flavors(directory, small=specs("performance", data="full"))
    said = audited(disk, "--flavors", file, status=1)["disk"]
    by = f"by allocpolicy:performance.data (flavor small in {file})"
    assert f"{by} performance.data is full, and was falloc" in said
    flavors(directory, other=specs("performance"))
    assert audited(disk, "--flavors", file, status=0)["disk"].startswith("meets")


@on_all
def test_a_changed_option_of_the_operator_outdates_the_disks_that_it_gave(
    directory: Path,
) -> None:
    """And no other: a policy that was asked for on the command line stays."""
    provision(directory / "given", "--size", SIZE)
    provision(directory / "asked", "--size", SIZE, "--strategy", "none")
    assert set(audited(directory, status=0)) == {"given", "asked"}
    changed = {DEFAULT: "performance"}
    said = audited(directory, status=1, **changed)
    assert said["given"].startswith("outdated: ")
    assert (
        f"by preallocate_images (environment {DEFAULT}) it is performance, and was none"
        in said["given"]
    )
    assert said["asked"].startswith("meets")
    assert allocpolicy("apply", directory / "given", **changed).status == 0
    assert audited(directory, status=0, **changed)["given"].startswith("meets")
    closed = {"OS_ALLOCPOLICY__FLAVOR_OVERRIDE": "false", **changed}
    said = audited(directory, status=1, **closed)
    assert said["given"].startswith("meets")
    assert said["asked"].startswith("outdated")  # nothing else decides now


@on_ext4
def test_growing_a_disk_changes_neither_its_policy_nor_what_it_was_asked_for(
    directory: Path,
) -> None:
    disk = directory / "disk"
    provision(disk, "--size", SIZE)
    before = os.getxattr(disk, stamps.XATTR)
    assert allocpolicy("resize", disk, 2 * SIZE, **{DEFAULT: "space"}).status == 0
    assert os.getxattr(disk, stamps.XATTR) == before


@on_ext4
@pytest.mark.parametrize(
    "options", [{"gone": 1}, {"reserve": "fallocate", "gone": 1}, {}]
)
def test_options_that_come_and_go_stop_no_audit(
    directory: Path, options: dict[str, object]
) -> None:
    """A stamp without its question is never outdated; an older stamp has none."""
    disk = directory / "disk"
    provision(disk, "--size", SIZE, "--strategy", "space", "--format", "raw")
    recorded = json.loads(os.getxattr(disk, stamps.XATTR))
    recorded["requested"]["options"] = options
    os.setxattr(disk, stamps.XATTR, json.dumps(recorded).encode())
    said = audited(disk, status=1 if options else 0)["disk"]
    assert said.startswith("outdated" if options else "meets"), said
    del recorded["asked"]
    os.setxattr(disk, stamps.XATTR, json.dumps(recorded).encode())
    said = audited(disk, status=0, **{DEFAULT: "none"})["disk"]
    assert said.startswith("pending" if options else "meets"), said


@on_ext4
def test_a_question_that_has_no_answer_today_is_told(directory: Path) -> None:
    disk = directory / "disk"
    provision(disk, "--size", SIZE, "--strategy", "none")
    recorded = json.loads(os.getxattr(disk, stamps.XATTR))
    wrong: object
    for wrong in ({"allocpolicy:strategy": "gone"}, {"allocpolicy:nosuch.x": "1"}):
        recorded["asked"]["extra_specs"] = wrong
        os.setxattr(disk, stamps.XATTR, json.dumps(recorded).encode())
        assert "can't be said" in audited(disk, status=1)["disk"]
        refused = allocpolicy("apply", disk)
        assert refused.status == 2
        assert f"{disk}: what its stamp asks for" in refused.stderr
    for wrong in ([], {"flavor": 1}, {"disk": "root"}):
        recorded["asked"] = wrong
        os.setxattr(disk, stamps.XATTR, json.dumps(recorded).encode())
        assert "malformed" in audited(disk, status=4)["disk"]


def write(file: Path, disks: dict[Path, str | None]) -> Path:
    """Write which disks are expected, in the format of the file's suffix."""
    named = {os.fspath(disk): strategy for disk, strategy in disks.items()}
    if file.suffix == ".yaml":
        file.write_text("".join(f"- {name}\n" for name in named))
    elif file.suffix == ".json":
        file.write_text(json.dumps(named))
    else:
        file.write_text("# disks\n\n" + "".join(f"{name}\n" for name in named))
    return file


@on_ext4
@pytest.mark.parametrize("suffix", [".txt", ".yaml", ".json"])
def test_an_expected_disk_that_is_gone_or_lost_its_stamp_is_a_finding(
    directory: Path, suffix: str
) -> None:
    there, lost, gone = (directory / name for name in ("there", "lost", "gone"))
    for disk in (there, lost, gone):
        provision(disk, "--size", SIZE, "--strategy", "none")
    (directory / "dir").mkdir()
    (directory / "link").symlink_to(there)
    file = write(directory / f"expected{suffix}", dict.fromkeys((there, lost, gone)))
    assert set(audited("--expect", file, status=0)) == {"there", "lost", "gone"}
    gone.unlink()
    os.removexattr(lost, stamps.XATTR)
    for paths in ((), (directory,), (there, directory / "dir")):
        said = audited(*paths, "--expect", file, status=1)
        assert said["there"].startswith("meets")
        assert said["lost"].startswith("drifted: it is expected to have a stamp")
        assert said["gone"].startswith("missing: it is expected, and there is no")
    summary = allocpolicy("audit", "--expect", file).stderr
    assert summary == (
        "3 disks: 1 meet, 1 drifted, 1 missing, 0 without policy, 0 base images."
        " --all shows those that meet.\n"
    )
    textfile = directory / "x.prom"
    allocpolicy("audit", "--expect", file, "--textfile", textfile)
    counts = textfile.read_text().splitlines()
    assert "allocpolicy_audited_disks 1" in counts
    assert "allocpolicy_unstamped_files 1" in counts
    relative = write(
        directory / "other.txt", dict.fromkeys((Path("link"), Path("dir")))
    )
    said = audited("--expect", relative, status=1)
    assert said["there"].startswith("meets")
    assert said["dir"] == "missing: it is expected, and is a directory"


def test_a_disk_that_a_list_and_a_machine_miss_is_one(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    machine = Attached(vm="vm1, vda", format="raw")
    found = audit([], expected={gone: "space"}, attached={gone: machine})
    (row,) = found.rows
    assert (row.word, row.strategy, row.disk) == ("missing", "space", gone)
    assert "it is expected" in row.reason
    assert "vm1, vda has it" in row.reason


@on_ext4
def test_an_expected_strategy_must_be_the_one_in_force(directory: Path) -> None:
    """Also where the disk had to fall back from it."""
    disk = directory / "disk"
    provision(disk, "--size", SIZE, "--strategy", "none")
    file = write(directory / "x.json", {disk: "none"})
    assert audited("--expect", file, status=0)["disk"].startswith("meets")
    write(file, {disk: "space"})
    said = audited(disk, "--expect", file, status=1)["disk"]
    assert said.startswith(
        "drifted: it is expected to have strategy space, and has none"
    )


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.json", "[1]", "expected a list of paths"),
        ("x.json", '{"a": 1}', "expected a list of paths"),
        ("x.json", "{", "line 1"),
        ("x.yaml", "a", "expected a list of paths"),
        ("x.txt", "", "empty"),
        ("x.txt", "a\0b", "NUL"),
        ("x.json", '["a\\u0000"]', "NUL"),
        ("x.txt", None, "No such file"),
    ],
)
def test_a_file_that_says_nothing_is_refused(
    tmp_path: Path, name: str, content: str | None, word: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    finished = allocpolicy("audit", "--expect", tmp_path / name)
    assert finished.status == 2
    (line,) = finished.stderr.splitlines()
    assert str(tmp_path / name) in line
    assert word in line


def test_an_audit_of_nothing_is_refused() -> None:
    finished = allocpolicy("audit")
    assert finished.status == 2
    assert "--expect" in finished.stderr
