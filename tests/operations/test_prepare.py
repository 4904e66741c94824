"""Preparing a disk: clones of it are all that the disk would have been."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy import (
    InvalidRequest,
    Order,
    Policy,
    PreparedDisks,
    Unsupported,
    prepare,
)
from allocpolicy.operations.provision import provision as provisioned
from allocpolicy.record import replace
from tests.harness import images, schemas
from tests.harness.cli import Finished, allocpolicy, provision
from tests.harness.images import MIB

FAST = ("--strategy", "performance")
FULL = "allocpolicy:performance.data=full"
REFLINK = pytest.mark.filesystems("xfs", "btrfs")


@pytest.fixture
def base(directory: Path) -> Path:
    """Return a base image that was last changed long enough ago."""
    made = directory / "base.raw"
    made.write_bytes(os.urandom(4 * MIB))
    return made


def prepared(directory: Path, *arguments: object, **variables: str) -> Finished:
    return allocpolicy(
        "cache", "prepare", directory, *arguments, "-f", "json", **variables
    )


def facts(path: Path) -> tuple[object, ...]:
    """Return what a change changes, of the file and of what it holds."""
    status = path.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    return (status.st_ino, status.st_mode, *times, path.read_bytes())


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@REFLINK
@pytest.mark.parametrize(
    ("strategy", "format"), [("performance", "qcow2"), ("none", "raw")]
)
def test_what_provision_clones_is_prepared(
    directory: Path, base: Path, strategy: str, format: str
) -> None:
    """And once it is there, the same command changes nothing."""
    order = (
        "--base",
        base,
        "--size",
        64 * MIB,
        "--strategy",
        strategy,
        "--format",
        format,
    )
    first = prepared(directory, *order)
    assert first.status == 0, first.stderr
    made = first.document
    path = Path(made["path"])
    assert made["changed"]
    assert (path.parent, path.stat().st_mode & 0o777) == (directory / "_base", 0o400)
    assert (made["format"], made["virtual_size"]) == (format, 64 * MIB)
    before = facts(path)
    again = prepared(directory, *order).document
    assert (again["path"], again["changed"]) == (str(path), False)
    assert facts(path) == before
    assert names(directory) == {"base.raw", "_base"}
    report = provision(directory / "disk", *order)
    assert report["cloned"] == str(path)
    assert images.same_content(base, directory / "disk", formats=("raw", format))
    [row] = allocpolicy("cache", "list", directory, "-f", "json").document
    assert (row["kind"], row["source"]) == ("prepared", str(base))
    assert row["outdated"] is None


@REFLINK
def test_a_foreign_base_is_converted_first(directory: Path, base: Path) -> None:
    """The prepared disk is made from the copy in the cache, which nobody uses then."""
    vmdk = images.convert(base, format="vmdk")
    order = ("--base", vmdk, "--strategy", "performance")
    made = prepared(directory, *order).document
    report = provision(directory / "disk", *order)
    assert report["cloned"] == made["path"]
    kinds = {
        row["kind"]: row["used_by"]
        for row in allocpolicy("cache", "list", directory, "-f", "json").document
    }
    assert kinds == {"converted": [], "prepared": []}


@REFLINK
@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--strategy", "space"), 2, "reserved"),
        (
            (
                "--strategy",
                "performance",
                "--extra-spec",
                "allocpolicy:performance.data=full",
            ),
            2,
            "written",
        ),
        (("--strategy", "none", "--base", "base.raw"), 2, "CreateQcow2"),
        (("--strategy", "performance", "--size", "1P"), 2, ""),
        (("--strategy", "performance", "--base", "gone.raw"), 2, "gone.raw"),
        (
            ("--strategy", "performance", "--base", "base.raw", "--size", "1M"),
            2,
            "1 MiB",
        ),
    ],
)
def test_what_cannot_be_prepared_is_refused(
    directory: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    says: str,
) -> None:
    """In one line that says why; nothing is left."""
    monkeypatch.chdir(directory)
    given = arguments if "--size" in arguments else (*arguments, "--size", "1G")
    finished = prepared(directory, *given)
    assert finished.status == status, finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert says in finished.stderr
    assert "prepared-for-" not in finished.stderr
    assert names(directory) == {"base.raw"}


@pytest.mark.filesystems("ext4")
def test_without_reflink_none_is_prepared(directory: Path, base: Path) -> None:
    finished = prepared(directory, "--base", base, "--strategy", "performance")
    assert finished.status == 4, finished.stderr
    assert names(directory) == {"base.raw"}
    with pytest.raises(Unsupported):
        prepare(order(directory, base), policy=Policy(configured=False))


@REFLINK
def test_where_it_is_off_none_is_prepared_nor_cloned(
    directory: Path, base: Path
) -> None:
    given = ("--base", base, "--strategy", "performance")
    assert prepared(directory, *given).status == 0
    off = {"OS_ALLOCPOLICY__PREPARED_DISKS": "off"}
    finished = prepared(directory, *given, **off)
    assert finished.status == 2
    assert "prepared_disks is off" in finished.stderr
    assert provision(directory / "disk", *given, **off)["cloned"] is None


@REFLINK
def test_a_cache_on_another_filesystem_is_not_used(
    directory: Path, base: Path, tmpfs: Path
) -> None:
    """Nothing can be shared with it; disks are made by their steps."""
    given = ("--base", base, "--strategy", "performance")
    elsewhere = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(tmpfs / "cache")}
    finished = prepared(directory, *given, **elsewhere)
    assert finished.status == 4, finished.stderr
    assert provision(directory / "disk", *given, **elsewhere)["cloned"] is None
    assert not [*(tmpfs / "cache").glob("*.prepared.*")]


def order(directory: Path, base: Path) -> Order:
    return Order(
        destination=directory / "disk",
        base=base,
        extra_specs={"allocpolicy:strategy": "performance"},
    )


@REFLINK
def test_a_program_prepares(directory: Path, base: Path) -> None:
    """By the same order that it provisions by."""
    policy, wanted = Policy(configured=False), order(directory, base)
    made = prepare(wanted, policy=policy)
    assert made.changed
    assert (made.base, made.virtual_size) == (base, 4 * MIB)
    assert made.actual_size == made.path.stat().st_blocks * 512
    assert not wanted.destination.exists()
    assert provisioned(wanted, policy=policy).cloned == made.path
    with pytest.raises(InvalidRequest, match="off"):
        prepare(
            order(directory / "..", base),
            policy=Policy(
                configured=False, prepared_disks=PreparedDisks(enabled=False)
            ),
        )
    with pytest.raises(InvalidRequest, match="dry_run"):
        prepare(replace(wanted, dry_run=True), policy=policy)


@REFLINK
def test_the_configured_cache_is_the_default(directory: Path, base: Path) -> None:
    cache = directory / "cache"
    cache.mkdir()
    configured = {"OS_ALLOCPOLICY__IMAGE_CACHE_DIR": str(cache)}
    given = ("--base", base, "--strategy", "performance")
    made = allocpolicy("cache", "prepare", *given, "-f", "json", **configured)
    assert made.status == 0, made.stderr
    assert Path(made.document["path"]).parent == cache
    report = provision(directory / "disk", *given, **configured)
    assert report["cloned"] == made.document["path"]
    assert not (cache / "_base").exists()


@REFLINK
@pytest.mark.parametrize(
    "command",
    [
        ("provision", "{}/disk", "--base", "PREPARED"),
        ("provision", "{}/disk", "--base", "PREPARED", "--format", "raw"),
        ("provision", "{}/disk", "--base", "{}/link"),
        ("inspect", "--base-format", "qcow2", "PREPARED"),
        ("apply", "PREPARED", *FAST, "--format", "qcow2"),
        ("apply", "PREPARED", *FAST, "--format", "qcow2", "--dry-run"),
        ("apply", "{}/link", *FAST, "--format", "qcow2", "--force"),
        ("resize", "PREPARED", "8M", "--format", "qcow2"),
        ("ensure", "PREPARED", "--size", "8M", *FAST),
        ("stamp", "set", "PREPARED", *FAST, "--format", "qcow2"),
    ],
)
@pytest.mark.parametrize("configured", [False, True])
def test_it_is_no_base_image_and_no_disk(
    directory: Path, base: Path, command: tuple[str, ...], configured: bool
) -> None:
    """Whatever names it is told so, and it stays as it is."""
    variables = {}
    if configured:
        (directory / "cache").mkdir()
        variables["OS_ALLOCPOLICY__IMAGE_CACHE_DIR"] = str(directory / "cache")
    made = prepared(directory, "--base", base, *FAST, **variables).document
    path = Path(made["path"])
    (directory / "link").symlink_to(path)
    before = facts(path)
    typed = (one.replace("PREPARED", str(path)).format(directory) for one in command)
    finished = allocpolicy(*typed, **variables)
    assert finished.status in (1, 2), finished.stdout
    assert (
        "it is a prepared disk of an image cache" in finished.stderr + finished.stdout
    )
    assert facts(path) == before
    assert not (directory / "disk").exists()


@REFLINK
def test_people_and_programs_see_it(directory: Path, base: Path) -> None:
    """The first is told what was made, the second that it was there; all is there."""
    given = ("cache", "prepare", directory, "--base", base, *FAST)
    first, second = (allocpolicy(*given).stdout for _ in range(2))
    assert "4 MiB qcow2   performance" in first
    assert "done     prepared: further disks like it are clones" in first
    assert "done     it was there already" in second
    assert max(len(one) for one in second.splitlines() if "/" not in one) <= 80
    finished = allocpolicy(*given, "-f", "json")
    shown = schemas.validated(finished, command="cache prepare")
    some = allocpolicy(*given, "-c", "path", "-c", "ACTUAL_SIZE", "-f", "json")
    assert some.document == {key: shown[key] for key in ("path", "actual_size")}
