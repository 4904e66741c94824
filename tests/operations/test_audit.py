"""What undoes a promise is found, on real filesystems, whoever did it."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import Attached, DiskFormat, Headroom, Policy, schema
from allocpolicy.contract.strategy import Choice
from allocpolicy.images import stamp as stamps
from allocpolicy.images.stamp import Stamp
from allocpolicy.operations.audit import audit
from allocpolicy.qcow2.tables import COPIED
from tests.harness import images, ordinary_user
from tests.harness.cli import Finished, allocpolicy, command, environment, provision
from tests.harness.filesystems import leave_free
from tests.harness.guest import GuestDisk, run_guest
from tests.harness.images import MIB
from tests.harness.patience import PATIENCE
from tests.harness.qcow2_disks import create, entry, header_of, l2_of, patch, write

SIZE = 64 * MIB
KINDS = ("ext4", "xfs", "btrfs")
JSON = ("-f", "json")

on_all = pytest.mark.filesystems(*KINDS)
on_reflink = pytest.mark.filesystems("xfs", "btrfs")
on_ext4 = pytest.mark.filesystems("ext4")
raw_and_qcow2 = pytest.mark.parametrize("format", ["raw", "qcow2"])


def audited(*arguments: object, status: int, **variables: str) -> list[dict[str, Any]]:
    """Audit and return the rows, which keep to their schema."""
    finished = allocpolicy("audit", *arguments, *JSON, **variables)
    assert (finished.status, finished.stderr.count("\n")) == (status, 1)
    assert finished.stderr.startswith("allocpolicy audit: ")
    rows: list[dict[str, Any]] = finished.document
    assert schema.validate(rows, schema=schema.load("audit")) == []
    return rows


def reason(disk: Path, *, verdict: str = "drifted") -> str:
    """Return why the only disk below a path has its verdict."""
    status = {"drifted": 1, "unverifiable": 4}.get(verdict, 0)
    (row,) = audited(disk, status=status)
    assert row["verdict"] == verdict, row
    return str(row["reason"])


def reserved(directory: Path, *, format: str = "raw") -> Path:
    disk = directory / f"reserved.{format}"
    provision(disk, "--strategy", "space", "--format", format, "--size", SIZE)
    assert audited(disk, status=0)[0]["verdict"] == "meets"
    return disk


def qemu_io(disk: Path, *commands: str, format: str = "raw") -> None:
    arguments = [word for one in commands for word in ("-c", one)]
    subprocess.run(
        ["qemu-io", "-d", "unmap", "-f", format, *arguments, disk],
        check=True,
        capture_output=True,
    )


def copy(source: Path, target: Path, *how: str) -> Path:
    """Copy a disk with its stamp."""
    subprocess.run(["cp", "--preserve=xattr", *how, source, target], check=True)
    return target


@on_all
@raw_and_qcow2
def test_a_discard_is_found(directory: Path, format: str) -> None:
    disk = reserved(directory, format=format)
    if format == "qcow2":
        qemu_io(disk, "write 0 16M", format=format)
    qemu_io(disk, "discard 0 8M", format=format)
    assert "no storage of its own" in reason(disk)


@on_all
@raw_and_qcow2
def test_a_sparse_copy_is_found(directory: Path, format: str) -> None:
    disk = reserved(directory, format=format)
    sparse = copy(disk, directory / "copy", "--sparse=always", "--reflink=never")
    assert "no storage of its own" in reason(sparse)
    assert reason(disk, verdict="meets")


@on_reflink
@raw_and_qcow2
def test_a_reflinked_snapshot_is_found_in_both_files(
    directory: Path, filesystem_kind: str, format: str
) -> None:
    """What is shared has to be copied on the next write: neither owns it."""
    disk = reserved(directory, format=format)
    qemu_io(disk, "write 0 16M", format=format)
    snapshot = directory / "snapshot"
    snapshot.touch()
    if filesystem_kind == "btrfs":
        subprocess.run(["chattr", "+C", snapshot], check=True)
    copy(disk, snapshot, "--reflink=always")
    for one in (disk, snapshot):
        assert "shared with other files" in reason(one)


@on_all
def test_a_reservation_beyond_the_end_of_the_file_is_none(directory: Path) -> None:
    """Fallocate with KEEP_SIZE, then truncate to the same size: it is gone."""
    disk = reserved(directory)
    os.truncate(disk, 0)
    os.truncate(disk, SIZE // 2)
    qemu_io(disk, f"write 0 {SIZE // 2}")
    subprocess.run(["fallocate", "-n", "-l", str(SIZE), disk], check=True)
    allocated = disk.stat().st_blocks * 512
    os.truncate(disk, SIZE // 2)
    assert disk.stat().st_blocks * 512 < allocated
    os.truncate(disk, SIZE)
    assert "no storage of its own" in reason(disk)


@on_all
def test_fstrim_in_a_guest_that_may_unmap_is_found(directory: Path) -> None:
    """The guest's own upkeep takes the reservation; with discard=ignore it can't."""
    disks = []
    for discard in ("unmap", "ignore"):
        place = directory / discard
        place.mkdir()
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", place / "base", "64M"], check=True
        )
        disk = place / "disk"
        provision(
            *(disk, "--base", place / "base", "--base-format", "raw"),
            *("--strategy", "space", "--format", "raw"),
        )
        (place / "base").unlink()
        disks.append(
            GuestDisk(path=disk, format="raw", serial=discard, discard=discard)
        )
    script = "".join(
        f"mount -t ext4 /dev/disk-{disk.serial} /mnt && fstrim /mnt; umount /mnt\n"
        for disk in disks
    )
    run_guest(script, disks=disks)
    assert "no storage of its own" in reason(directory / "unmap")
    assert reason(directory / "ignore", verdict="meets")


@on_all
def test_a_lost_mapping_is_found(directory: Path) -> None:
    disk = directory / "disk"
    provision(disk, "--strategy", "performance", "--size", SIZE)
    assert reason(disk, verdict="meets")
    qemu_io(disk, "discard 8M 8M", format="qcow2")
    assert reason(disk) == "mapping is partial: 8 MiB not mapped, 12 %"


@on_ext4
def test_a_backing_file_that_is_gone_is_a_drift_of_whatever_strategy(
    directory: Path,
) -> None:
    base = create(directory / "base", SIZE)
    provision(
        *(directory / "disk", "--base", base, "--base-format", "qcow2"),
        *("--strategy", "none"),
    )
    assert reason(directory / "disk", verdict="meets")
    base.rename(directory / "elsewhere")
    assert f"its backing file {base}: cannot open it" in reason(directory / "disk")


def corrupt_l2_entry(disk: Path) -> str:
    patch(disk, l2_of(disk), entry(COPIED | 1 << 50))
    return "guest offset 0 is mapped to an offset outside the file"


def truncated(disk: Path) -> str:
    os.truncate(disk, disk.stat().st_size // 2)
    return "outside the file"


def l1_entry_past_the_end(disk: Path) -> str:
    patch(disk, header_of(disk).l1_offset, entry(COPIED | 1 << 50))
    return "L1 entry 0 points at an L2 table that is outside the file"


def l2_table_in_itself(disk: Path) -> str:
    table = l2_of(disk)
    patch(disk, table + 8, entry(COPIED | table))
    return "mapped onto metadata"


def l1_entries_that_share(disk: Path) -> str:
    table, l1 = l2_of(disk), header_of(disk).l1_offset
    patch(disk, l1 + 8, entry(COPIED | table))
    return "L1 entries 0 and 1 share an L2 table"


def no_header(disk: Path) -> str:
    patch(disk, 0, bytes(4096))
    return "it is not a qcow2 image"


@on_all
@pytest.mark.parametrize(
    "ruin",
    [
        corrupt_l2_entry,
        truncated,
        l1_entry_past_the_end,
        l2_table_in_itself,
        l1_entries_that_share,
        no_header,
    ],
)
def test_a_malformed_disk_is_a_row_and_no_reason_to_stop(
    directory: Path, ruin: Callable[[Path], str]
) -> None:
    """`inspect` refuses it in one line; neither crashes, neither loops."""
    disk, other = directory / "disk", directory / "other"
    for one in (disk, other):
        provision(one, "--size", "2G", "--strategy", "performance")
    expected = ruin(disk)
    rows = audited(directory, status=1)
    assert [row["verdict"] for row in rows] == ["drifted", "meets"]
    assert expected in rows[0]["reason"]
    assert rows[0]["mapping"] is rows[0]["allocation"] is None
    cells = allocpolicy("audit", disk, "-f", "value").stdout
    assert cells.startswith(f"{disk} performance null null drifted ")
    refused = allocpolicy("inspect", disk)
    assert refused.status == 2
    assert len(refused.stderr.splitlines()) == 1
    assert expected in refused.stderr


@on_ext4
def test_directories_are_gone_through_and_files_without_a_stamp_passed_over(
    directory: Path,
) -> None:
    deep = directory / "a" / "b"
    deep.mkdir(parents=True)
    for place in (directory, deep):
        provision(place / "disk", "--size", "1M")
        (place / "notes").write_text("no disk")
    (directory / ".allocpolicy-0123456789abcdef.tmp").write_bytes(b"")
    (directory / "link").symlink_to(deep)
    os.mkfifo(directory / "fifo")
    rows = audited(directory, deep / "disk", directory, status=0)
    assert [row["disk"] for row in rows] == [
        str(deep / "disk"),
        str(directory / "disk"),
    ]


@on_ext4
def test_a_file_without_a_stamp_is_judged_by_what_is_given(directory: Path) -> None:
    thin, stamped = create(directory / "thin", SIZE), directory / "stamped"
    (directory / "notes").write_text("no disk")
    provision(stamped, "--size", SIZE)
    assert "has no stamp" in reason(thin, verdict="no policy")
    given = ("--strategy", "space", "--format", "qcow2")
    rows = audited(directory, *given, status=1)
    assert [(row["strategy"], row["verdict"]) for row in rows] == [
        ("none", "meets"),  # its stamp goes first
        ("space", "drifted"),
    ]
    for half in (given[:2], given[2:]):
        finished = allocpolicy("audit", directory, *half)
        assert finished.status == 2
        assert "--disk-format" in finished.stderr


@on_ext4
def test_raw_files_are_disks_where_the_user_says_so(directory: Path) -> None:
    """What nobody may write to is none: a base image, an ISO."""
    for name, mode in (("disk", 0o600), ("iso", 0o444)):
        (directory / name).write_bytes(bytes(MIB))
        (directory / name).chmod(mode)
    rows = audited(directory, "--strategy", "space", "--format", "raw", status=0)
    assert [(row["disk"], row["verdict"]) for row in rows] == [
        (str(directory / "disk"), "meets")
    ]


@on_ext4
def test_fewer_disks_than_expected_are_a_finding(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a filesystem is not mounted; a number is no file: that is ./7."""
    (directory / "disk").write_bytes(bytes(MIB))
    stamp(directory / "disk", strategy="space", options={})
    empty, names = directory / "empty", directory / "names"
    empty.mkdir()
    names.write_text("disk\n")
    metrics = directory / "x.prom"
    for number, status in (("1", 0), ("2", 1)):
        done = allocpolicy(
            *("audit", directory, empty, "--expect", number, "--expect", names),
            *("--textfile", metrics),
        )
        assert done.status == status
        said = f"1 disk found, and at least 2 expected: none in {empty};"
        assert (said in done.stderr) is bool(status)
        assert f"no disk in {empty}" in done.stderr
        text = metrics.read_text()
        assert f"allocpolicy_expected_disks {number}\n" in text
        assert f'allocpolicy_path_disks{{path="{directory}"}} 1\n' in text
        assert f'allocpolicy_path_disks{{path="{empty}"}} 0\n' in text
    (directory / "7").write_text("disk\n")
    monkeypatch.chdir(directory)
    done = allocpolicy("audit", empty, "--expect", "./7", *JSON)
    assert (done.status, len(done.document)) == (0, 1)


def test_a_path_that_is_not_there_exits_2(tmp_path: Path) -> None:
    finished = allocpolicy("audit", tmp_path, tmp_path / "no")
    assert finished.status == 2
    assert finished.stderr == (
        f"allocpolicy audit: image {tmp_path / 'no'}: cannot open it: No such file or"
        " directory\n"
    )
    several = allocpolicy("audit", tmp_path / "a", tmp_path, tmp_path / "b")
    assert several.status == 2
    named = [line.split(":")[1] for line in several.stderr.splitlines()]
    assert named == [f" image {tmp_path / name}" for name in ("a", "b")]


def stamp(disk: Path, *, strategy: str, options: dict[str, object]) -> None:
    choice = Choice(strategy=strategy, options=options)
    fd = os.open(disk, os.O_RDWR)
    try:
        given = Stamp(requested=choice, effective=choice, format=DiskFormat.RAW)
        assert stamps.write(fd, given)
    finally:
        os.close(fd)


BROKEN = """
from allocpolicy import Strategy

class Broken(Strategy):
    api_version = 1
    summary = "Raises whatever it is asked."
    def plan(self, **given): raise RuntimeError("plan")
    def verify(self, **given): raise RuntimeError("no judge")
    def attach(self, **given): raise RuntimeError("attach")
"""


@on_ext4
def test_a_strategy_that_cannot_be_asked_stops_nothing(
    directory: Path, tmp_path: Path
) -> None:
    """Neither one that raises, nor one that is gone, nor options that it refuses."""
    site = tmp_path / "broken-1.dist-info"
    site.mkdir()
    (tmp_path / "broken.py").write_text(BROKEN)
    (site / "METADATA").write_text("Name: broken\nVersion: 1\n")
    (site / "entry_points.txt").write_text(
        "[allocpolicy.strategies]\nbroken = broken:Broken\n"
    )
    for name in ("a", "b", "c", "d", "e"):
        (directory / name).write_bytes(bytes(MIB))
    stamp(directory / "a", strategy="broken", options={})
    stamp(directory / "b", strategy="gone", options={})
    stamp(directory / "c", strategy="space", options={"reserve": "prayer"})
    stamp(directory / "d", strategy="space", options={})  # older than the option
    os.setxattr(directory / "e", stamps.XATTR, b"{")
    rows = audited(directory, status=0, PYTHONPATH=str(tmp_path))
    assert [row["verdict"] for row in rows] == [
        *["unverifiable"] * 3,
        "meets",
        "unverifiable",
    ]
    said = [row["reason"] for row in rows]
    assert "RuntimeError: no judge" in said[0]
    assert "'gone' is not installed" in said[1]
    assert "'prayer'" in said[2]
    assert "malformed" in said[4]


def test_a_disk_of_two_names_is_expected_once(tmp_path: Path) -> None:
    """Both have a row; a hard link is no second disk, nor is one on a bind mount."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for name in ("a/one", "b/two"):
        (tmp_path / name).write_bytes(bytes(MIB))
    os.link(tmp_path / "a" / "one", tmp_path / "a" / "again")
    os.link(tmp_path / "a" / "one", tmp_path / "b" / "one")
    policy = Policy(configured=False)
    seen = audit([tmp_path, tmp_path / "a", tmp_path / "b"], policy=policy)
    assert len(seen.rows) == 4
    assert (seen.disks, seen.unstamped) == (2, 4)
    assert list(seen.found.values()) == [2, 1, 2]
    assert "2 by another name" in seen.summary
    said = dataclasses.replace(seen, expected=3).shortage
    assert said == "2 disks found, and at least 3 expected"


@pytest.mark.system
def test_what_cannot_be_listed_is_not_called_empty() -> None:
    """What is in it isn't known: it may have disks."""
    with ordinary_user.public_place() as place:
        for name in ("empty", "closed", "half/closed"):
            (place / name).mkdir(parents=True, mode=0o755)
        for name in ("closed", "half/closed"):
            (place / name).chmod(0o700)
        named = [place / name for name in ("empty", "closed", "half")]
        with ordinary_user.assumed():
            seen = audit(named, policy=Policy(configured=False))
    seen = dataclasses.replace(seen, expected=1)
    assert seen.empty == (place / "empty",)
    assert seen.summary.count("no disk in") == 1
    assert seen.shortage == (
        "0 disks found (2 paths not read), and at least 1 expected:"
        f" none in {place / 'empty'}; is a filesystem not mounted?"
    )
    assert (seen.exit_status(), seen.unlisted) == (1, 2)


@on_ext4
def test_a_malformed_stamp_is_no_policy(directory: Path) -> None:
    """Which it was isn't known: the disk lacks a stamp, and is none of the audited."""
    for name in ("a", "b"):
        (directory / name).write_bytes(bytes(MIB))
    stamp(directory / "a", strategy="space", options={"reserve": "fallocate"})
    os.setxattr(directory / "b", stamps.XATTR, b"{}")
    seen = audit([directory], policy=Policy(configured=False))
    assert [row.word for row in seen.rows] == ["meets", "unverifiable"]
    assert (seen.audited, seen.unstamped, seen.disks) == (1, 1, 2)
    assert (seen.exit_status(), seen.exit_status(require_stamp=True)) == (0, 1)
    alone = audit(directory / "b", policy=Policy(configured=False))
    assert (alone.exit_status(), alone.exit_status(require_stamp=True)) == (4, 1)


@pytest.mark.system
def test_what_cannot_be_looked_at_is_not_called_missing() -> None:
    """Whether an expected disk is behind a closed directory isn't known: status 2."""
    with ordinary_user.public_place() as place:
        (place / "closed").mkdir(mode=0o700)
        one = place / "closed" / "one"
        vm = {place / "closed" / "two": Attached(vm="web", format=DiskFormat.RAW)}
        with ordinary_user.assumed():
            seen = audit(
                [place], policy=Policy(configured=False), expected={one: "space"}
            )
            of_vm = audit([], policy=Policy(configured=False), attached=vm)
    words = {row.disk.name: (row.word, row.reason) for row in seen.rows}
    said = "it is expected; cannot open it: Permission denied"
    word, reason = words["one"]
    assert (word, reason[: len(said)]) == ("unreadable", said)
    assert (seen.exit_status(), seen.disks, seen.audited) == (2, 0, 0)
    (row,) = of_vm.rows
    assert (row.word, of_vm.exit_status(), of_vm.disks) == ("unreadable", 2, 0)
    relative = audit([], policy=Policy(configured=False), expected={"gone": None})
    assert [one.word for one in relative.rows] == ["missing"]
    assert all(one.disk.is_absolute() for one in relative.rows)
    assert relative.exit_status() == 1


@on_ext4
def test_what_may_not_be_read_is_unreadable(directory: Path) -> None:
    """An ordinary user's audit says so of each disk, and of each directory."""
    with ordinary_user.public_directory() as place:
        for name in ("mine", "theirs"):
            (place / name).write_bytes(bytes(MIB))
            stamp(place / name, strategy="space", options={})
        (place / "mine").chmod(0o644)
        (place / "theirs").chmod(0o200)
        (place / "closed").mkdir(mode=0o700)
        done = subprocess.run(
            ordinary_user.command(*command("audit", place, *JSON)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
            cwd=place,
        )
    finished = Finished(status=done.returncode, stdout=done.stdout, stderr=done.stderr)
    assert finished.status == 2
    assert finished.stderr == (
        "allocpolicy audit: 2 disks: 1 meet, 0 drifted, 1 unreadable, 0 without policy,"
        " 0 base images, 1 path not read\n"
    )
    assert [(Path(row["disk"]).name, row["verdict"]) for row in finished.document] == [
        ("closed", "unreadable"),
        ("mine", "meets"),
        ("theirs", "unreadable"),
    ]
    said = [row["reason"] for row in finished.document]
    assert "cannot list it: Permission denied" in said[0]
    assert "cannot read it: Permission denied" in said[2]


LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, lambda *_: print("broken", flush=True))
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
print("ended", flush=True)
"""


@on_all
def test_a_disk_that_is_being_rewritten_is_left_in_peace(directory: Path) -> None:
    """Whoever rewrites it has a lease on it: opening it would make him give up."""
    disk = reserved(directory)
    with subprocess.Popen(
        ["python3", "-c", LEASE, disk],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert "is being rewritten" in reason(disk, verdict="unverifiable")
        assert "is being rewritten" in allocpolicy("inspect", disk).stderr
        assert holder.communicate()[0] == "ended\n"
    assert reason(disk, verdict="meets")


@pytest.mark.parametrize("kind", KINDS)
def test_headroom_is_counted_for_all_disks_of_a_filesystem(
    fresh_filesystem: Callable[..., Path], kind: str
) -> None:
    """Two reserved disks want more than either of them, in whatever directories."""
    mount_point = fresh_filesystem(kind)
    disks = []
    for name in ("a", "b"):
        (mount_point / name).mkdir()
        disks.append(mount_point / name / "disk")
        provision(
            *(disks[-1], "--strategy", "space", "--format", "raw", "--size", "256M")
        )
    leave_free(mount_point, 48 * MIB)
    (mount_point / "ballast").chmod(0o400)  # or it would count as a raw disk
    ratio = {
        "OS_ALLOCPOLICY__HEADROOM_MINIMUM": "0",
        "OS_ALLOCPOLICY__HEADROOM_RATIO": "0.125",  # 32 MiB of each
    }
    for disk in disks:
        (row,) = audited(disk, status=0, **ratio)
        assert "headroom" not in row["reason"]
        together = {"OS_ALLOCPOLICY__DISK_DIRECTORIES": str(mount_point)}
        (row,) = audited(disk, status=0, **ratio, **together)
        assert "headroom: 64 MiB" in row["reason"]
        shown = allocpolicy("inspect", disk, *JSON, **ratio, **together).document
        assert "headroom: 64 MiB" in shown["observed"]["exception"]
    rows = audited(mount_point, status=0, **ratio)
    assert all("headroom: 64 MiB" in row["reason"] for row in rows)
    policy = Policy(headroom=Headroom(ratio=0.125, minimum=0))
    found = audit([mount_point], policy=policy)
    assert all(row.observed and not row.observed.guaranteed for row in found.rows)
    (storage,) = found.filesystems
    assert storage.type == kind
    assert storage.account.unwritten == 512 * MIB


@on_ext4
def test_many_processes_see_what_one_sees(directory: Path) -> None:
    for number in range(40):
        disk = directory / f"{number:02}"
        disk.write_bytes(bytes(MIB))
        if number % 3:
            os.truncate(disk, 2 * MIB)
        stamp(disk, strategy="space", options={})
    rows = audited(directory, "--jobs", 1, status=1)
    assert [row["verdict"] for row in rows] == [
        "drifted" if number % 3 else "meets" for number in range(40)
    ]
    assert audited(directory, "--jobs", 5, status=1) == rows
    for wrong in ("0", "x"):
        assert allocpolicy("audit", directory, "--jobs", wrong).status == 2


WATCHED = """
import json, os, sys
from pathlib import Path
from allocpolicy import DiskFormat, Policy
from allocpolicy.contract.strategy import Choice
from allocpolicy import Given, audit

seen = []

def note(event, what):
    if event not in ("open", "os.scandir"):
        return
    path = f"/proc/self/fd/{what[0]}" if isinstance(what[0], int) else str(what[0])
    found = path.startswith("/proc/self/fd/")
    seen.append((event, os.readlink(path) if found else path))

sys.addaudithook(note)
given = Given(choice=Choice(strategy="none", options={}), format=DiskFormat.QCOW2)
found = audit(
    [Path(sys.argv[1])],
    policy=Policy(disk_directories=(Path(sys.argv[1]),)),
    given=given if len(sys.argv) > 2 else None,
    jobs=1,
)
(storage,) = found.filesystems
account = storage.account
print(json.dumps([seen, account.disks, account.unstamped, account.malformed]))
"""


@on_reflink
@pytest.mark.parametrize("given", [False, True])
def test_each_directory_is_listed_once_and_each_file_opened_once(
    directory: Path, given: bool
) -> None:
    """What the audit saw is what is accounted, also of what is no disk, or is shared.

    A file that was passed over is still looked at for the account, once.
    """
    for place in (directory, directory / "a", directory / "a" / "b"):
        place.mkdir(exist_ok=True)
        provision(place / "stamped", "--size", "1M")
        (place / "raw").write_bytes(bytes(MIB))
        create(place / "qcow2", SIZE)
        copy(place / "raw", place / "clone", "--reflink=always")
        (place / "malformed").write_bytes(bytes(MIB))
        os.setxattr(place / "malformed", stamps.XATTR, b"{")
    arguments = [directory, "given"] if given else [directory]
    finished = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    seen, *counts = json.loads(finished.stdout)
    assert counts == [15, 9, 3]
    places = [directory, directory / "a", directory / "a" / "b"]
    listed = [path for event, path in seen if event == "os.scandir"]
    assert [listed.count(str(place)) for place in places] == [1, 1, 1]
    opened = [path for event, path in seen if event == "open"]
    for place in places:
        for disk in ("stamped", "raw", "qcow2", "clone", "malformed"):
            assert opened.count(str(place / disk)) == 1, disk


@pytest.fixture
def many(directory: Path) -> Path:
    """Give a directory with a disk that has 30,000 names."""
    disk = directory / "0"
    disk.write_bytes(bytes(MIB))
    stamp(disk, strategy="space", options={})
    for number in range(1, 30000):
        os.link(disk, directory / str(number))
    return directory


@on_ext4
@pytest.mark.parametrize(
    ("ending", "why"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")],
)
def test_interrupted_it_ends_at_once_and_leaves_no_process(
    many: Path, ending: signal.Signals, why: str
) -> None:
    """Its processes get the signal as well, and leave it to the first."""
    with at_work(many, "--textfile", many / "x.prom") as process:
        os.killpg(process.pid, ending)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + ending
    assert said.splitlines() == [f"allocpolicy audit: {why}; nothing was changed"]
    assert not (many / "x.prom").exists()
    assert_gone(process.pid)


@on_ext4
def test_killed_it_takes_its_processes_along(many: Path) -> None:
    with at_work(many) as process:
        process.kill()
    assert_gone(process.pid)


@contextmanager
def at_work(directory: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Audit a directory, in a session of its own, until its workers are there."""
    with subprocess.Popen(
        command("audit", directory, "--jobs", 2, *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
        text=True,
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while len(alive(process.pid)) < 3:
            assert time.monotonic() < deadline
        yield process


def assert_gone(session: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while alive(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(session) == []


def alive(session: int) -> list[str]:
    """Return the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                found.append(stat.parent.name)
    return found


@on_ext4
def test_metrics_are_written_whole_also_when_disks_have_drifted(
    directory: Path,
) -> None:
    disk = reserved(directory)
    textfile = directory / "allocpolicy.prom"
    textfile.write_text("old\n")
    inode = textfile.stat().st_ino
    audited(directory, "--textfile", textfile, status=0)
    text = textfile.read_text()
    assert textfile.stat().st_ino != inode
    assert textfile.stat().st_mode & 0o777 == 0o644
    assert f'_verdict{{disk="{disk}",strategy="space",verdict="meets"}} 1' in text
    assert f'allocpolicy_disk_reserved_bytes{{disk="{disk}"}} {SIZE}' in text
    assert "allocpolicy_filesystem_free_bytes" in text
    assert text.endswith("# EOF\n")
    qemu_io(disk, "discard 0 8M")
    audited(directory, "--textfile", textfile, status=1)
    assert f'_verdict{{disk="{disk}",strategy="space",verdict="drifted"}} 1' in (
        textfile.read_text()
    )
    assert sorted(os.listdir(directory)) == ["allocpolicy.prom", disk.name]


def test_metrics_that_find_no_room_leave_the_old_ones(
    fresh_filesystem: Callable[..., Path], tmp_path: Path
) -> None:
    mount_point = fresh_filesystem("ext4", mkfs_options=("-m", "0"))
    textfile = mount_point / "x.prom"
    textfile.write_text("old\n")
    disk = tmp_path / "0"
    disk.write_bytes(bytes(MIB))
    stamp(disk, strategy="space", options={})
    for number in range(1, 100):
        os.link(disk, tmp_path / str(number))
    leave_free(mount_point, 0)
    finished = allocpolicy("audit", tmp_path, "--textfile", textfile)
    assert finished.status == 3
    assert len(finished.stderr.splitlines()) == 1
    assert textfile.read_text() == "old\n"
    assert {"x.prom", "ballast"} == set(os.listdir(mount_point)) - {"lost+found"}


def test_metrics_without_a_directory_are_refused_before_anything_is_looked_at(
    tmp_path: Path,
) -> None:
    finished = allocpolicy("audit", tmp_path, "--textfile", tmp_path / "no" / "x.prom")
    assert finished.status == 2
    assert "directory" in finished.stderr


@on_ext4
def test_a_saved_machine_is_no_malformed_disk(directory: Path) -> None:
    """QEMU keeps tables beyond the virtual size where it saved a running machine."""
    disk = directory / "disk"
    provision(disk, "--size", SIZE)
    write(disk, "write 0 1M")
    machine = ["qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-nodefaults"]
    monitor = ["-display", "none", "-S", "-monitor", "stdio"]
    drive = ["-drive", f"if=ide,file={disk},format=qcow2,cache=none"]
    if shutil.which(machine[0]) is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    subprocess.run(
        [*machine, *monitor, *drive],
        input="savevm one\nquit\n",
        text=True,
        check=True,
        capture_output=True,
    )
    listed = json.loads(images.qemu_img("info", "--output=json", disk))
    assert listed["snapshots"][0]["vm-state-size"] > 0
    assert reason(disk, verdict="meets")
    shown = allocpolicy("inspect", disk, *JSON).document
    assert "internal snapshot" in shown["observed"]["hindrances"][0]


@on_all
def test_a_disk_that_is_written_to_all_the_time_is_never_malformed(
    directory: Path,
) -> None:
    """We read while QEMU maps, frees and zeroes clusters: no look may be misled."""
    disk = directory / "disk"
    provision(disk, "--size", "8G")
    draw = random.Random(4)
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", "-d", "unmap", "-t", "none", disk],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as guest:
        assert guest.stdin is not None
        looks = 0
        deadline = time.monotonic() + 3
        while looks < 20 or time.monotonic() < deadline:
            for _ in range(40):
                what = draw.choice(["aio_write", "aio_write -z", "discard"])
                print(what, draw.randrange(1 << 17) << 16, "64k", file=guest.stdin)
            guest.stdin.flush()
            (row,) = audit([disk], policy=Policy()).rows
            assert row.verdict.judgement == "meets", row
            looks += 1
    images.check(disk)
