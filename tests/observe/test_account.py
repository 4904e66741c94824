"""The account: what the disks of a filesystem hold, and what they may still take."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy import (
    DiskFormat,
    Headroom,
    Order,
    Policy,
    discarding_size_bound,
    provision,
)
from allocpolicy.contract.facts import Limits
from allocpolicy.contract.strategy import Choice
from allocpolicy.images import stamp as stamps
from allocpolicy.images.existing import opened
from allocpolicy.images.stamp import XATTR, Stamp
from allocpolicy.observe import account
from allocpolicy.observe import disk as observe
from allocpolicy.observe import holding as holdings
from allocpolicy.observe.account import Account
from allocpolicy.observe.ledger import Kind, Ledger
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.observe.unknown import Unknown, Why
from allocpolicy.storage import reflink, tree
from allocpolicy.storage.copy import Run
from tests.conftest import FreshFilesystem
from tests.harness import cli, filesystems, images, ordinary_user
from tests.harness.images import GIB, MIB

ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
REFLINK = pytest.mark.filesystems("xfs", "btrfs")
SIZE = 64 * MIB
STRATEGIES = {
    "none": {},
    "space": {},
    "performance": {},
    "falloc": {"allocpolicy:performance.data": "falloc"},
}


def make(
    disk: Path,
    *,
    strategy: str = "none",
    format: DiskFormat = DiskFormat.QCOW2,
    size: int = SIZE,
) -> Path:
    """Provision a disk under its own locks."""
    name = "performance" if strategy == "falloc" else strategy
    specs = {"allocpolicy:strategy": name, **STRATEGIES[strategy]}
    provision(
        Order(destination=disk, virtual_size=size, format=format, extra_specs=specs),
        policy=Policy(
            lock_path=disk.parent.parent / "locks",
            headroom=Headroom(ratio=0, minimum=0),
        ),
    )
    return disk


def write(path: Path, *, length: int = MIB, size: int | None = None) -> Path:
    """Make a file with so many bytes of data, and sync it."""
    with path.open("wb") as file:
        file.write(os.urandom(length))
        file.truncate(length if size is None else size)
        file.flush()
        os.fsync(file.fileno())
    return path


def clone(path: Path, target: Path) -> Path:
    """Make a file that shares all of another's blocks."""
    with path.open("rb") as source, target.open("wb") as file:
        length = path.stat().st_size
        run = Run(source=0, target=0, length=length)
        reflink.share(source.fileno(), file.fileno(), run=run)
    return target


@ALL
@pytest.mark.parametrize("format", DiskFormat)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_disk_counts_as_observation_has_it(
    directory: Path, strategy: str, format: DiskFormat
) -> None:
    """What is promised is the full size less what the disk holds of its own."""
    disk = make(directory / "disk", strategy=strategy, format=format)
    filesystems.at_rest(directory)
    policy = Policy(headroom=Headroom(ratio=0, minimum=0))
    with opened(disk) as one:
        found = observe.disk(
            one.fd,
            path=disk,
            format=format,
            surroundings=surroundings(one.fd, directory=directory, policy=policy),
        )
        holding = holdings.measure(one.fd, path=disk)
    full_size = found.full_size
    if (strategy, format) == ("none", DiskFormat.QCOW2):
        full_size = discarding_size_bound(SIZE)
    assert (holding.virtual_size, holding.full_size) == (SIZE, full_size)
    taken = account.take(directory, policy=Policy())
    assert found.extents is not None
    assert (taken.disks, taken.images, taken.unstamped) == (1, 0, 0)
    assert taken.virtual_size == SIZE
    assert taken.promised == max(0, full_size - found.actual_size)
    assert taken.allocated == found.actual_size
    assert taken.unwritten == found.extents.unwritten
    assert (strategy in ("none", "performance")) == (taken.promised > SIZE // 2)


def whole(path: Path, *, size: str | int, options: str = "") -> int:
    """Return the fully allocated size of a qcow2, as qemu-img measures it."""
    arguments = ["--output=json", "-O", "qcow2", "--size", size]
    arguments += ["-o", options] if options else []
    answer = json.loads(images.qemu_img("measure", *arguments))
    return int(answer["fully-allocated"])


@pytest.mark.filesystems("ext4", "xfs", "btrfs", elsewhere={"options": ""})
@pytest.mark.parametrize(
    "options",
    [
        "",
        "compat=0.10",
        "cluster_size=4096",
        "cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=64",
        "extended_l2=on",
    ],
)
def test_a_qcow2_without_a_stamp_may_take_what_its_header_says(
    directory: Path, options: str
) -> None:
    """However little its file has, and however small the filesystem is."""
    disk = directory / "disk"
    arguments = ["-o", options] if options else []
    images.qemu_img("create", "-q", "-f", "qcow2", *arguments, disk, "1T")
    images.qemu_io(disk, "write 100G 1M", "write 5M 64k", format="qcow2")
    filesystems.at_rest(directory)
    held = disk.stat().st_blocks * 512
    taken = account.take(directory, policy=Policy())
    assert (taken.disks, taken.unstamped, taken.malformed) == (1, 1, 0)
    assert taken.virtual_size == 1 << 40
    # qemu-img measures with refcounts of 16 bits.
    expected = whole(disk, size="1T", options=options) - held
    assert abs(taken.promised - expected) <= expected // 100


@ALL
def test_an_external_snapshot_may_take_as_much_as_its_disk(directory: Path) -> None:
    """One of another snapshot too, and what a guest gives back."""
    disk = make(directory / "disk", strategy="space")
    before = account.take(directory, policy=Policy())
    below, top = directory / "first", directory / "second"
    overlay = ("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b")
    images.qemu_img(*overlay, disk, below)
    images.qemu_img(*overlay, below, top)
    images.qemu_io(top, "write 0 8M", format="qcow2")
    images.qemu_io(top, "discard 0 8M", format="qcow2", discard="unmap")
    filesystems.at_rest(directory)
    taken = account.take(directory, policy=Policy())
    each = whole(top, size=SIZE)
    held = below.stat().st_blocks * 512 + top.stat().st_blocks * 512
    assert (taken.disks, taken.unstamped) == (before.disks + 2, 2)
    assert taken.promised - before.promised == 2 * each - held
    top.chmod(0o444)
    assert account.take(directory, policy=Policy()).promised < taken.promised


@ALL
@pytest.mark.parametrize("discarded", [0, 8 * MIB])
def test_a_snapshot_counts_whatever_its_guest_gave_back(
    directory: Path, discarded: int
) -> None:
    """Also one that is larger than the filesystem, and whose last clusters are free."""
    base, top = directory / "base", directory / "top"
    images.qemu_img("create", "-q", "-f", "qcow2", base, "40G")
    base.chmod(0o444)
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    images.qemu_io(top, "write 0 8M", format="qcow2")
    if discarded:
        images.qemu_io(top, f"discard 0 {discarded}", format="qcow2", discard="unmap")
    filesystems.at_rest(directory)
    held = top.stat().st_blocks * 512
    promised = account.take(directory, policy=Policy()).promised
    assert promised == whole(top, size="40G") - held


@ALL
def test_a_guest_gains_little_by_a_header_in_a_raw_disk(directory: Path) -> None:
    """One that claims more than there is, one that QEMU refuses, and a forged one."""
    claimed = directory / "claimed"
    images.qemu_img("create", "-q", "-f", "qcow2", claimed, "60T")
    header = claimed.read_bytes()
    claimed.unlink()
    disk = write(directory / "disk", length=len(header), size=SIZE)

    def promised(*, limit: int = 0) -> int:
        policy = Policy(limits=Limits(max_promised_bytes=limit))
        return account.take(directory, policy=policy).promised

    raw = promised()
    assert raw <= SIZE
    with disk.open("r+b") as file:
        file.write(header)
    assert promised() == raw
    with disk.open("r+b") as file:
        file.write(header[:1024])
        file.write(bytes(len(header) - 1024))
    assert promised() == raw
    os.truncate(disk, len(header))
    with disk.open("r+b") as file:
        file.write(header)
    assert promised() > 60 << 40
    with images.held_by_qemu(disk, format="raw"):
        assert promised() <= len(header)
    with images.held_by_qemu(disk, format="qcow2"):
        assert promised() > 60 << 40
    assert SIZE // 2 < promised(limit=SIZE) <= SIZE


@ALL
def test_what_nobody_may_write_to_promises_nothing(directory: Path) -> None:
    """Base images, and all that is in an image cache, by whatever name it goes."""
    write(directory / "base", size=GIB).chmod(0o444)
    for cache, memo in (("_base", False), ("images", True)):
        (directory / cache / ".users").mkdir(parents=True)
        if memo:
            (directory / cache / ".memo").mkdir()
        write(directory / cache / "entry", size=GIB)
        write(directory / cache / ".users" / "entry", size=GIB)
    taken = account.take(directory, policy=Policy())
    assert (taken.disks, taken.images) == (0, 5)
    assert (taken.promised, taken.virtual_size) == (0, 0)
    assert taken.allocated >= 5 * MIB


@REFLINK
def test_what_is_shared_holds_storage_once(directory: Path) -> None:
    """Clones of an image and of one another; each of them promises all of itself."""
    filesystems.available(directory)
    before = account.take(directory, policy=Policy())
    image = write(directory / "image", length=8 * MIB)
    image.chmod(0o444)
    for name in ("one", "two"):
        clone(image, directory / name)
    os.truncate(directory / "two", 4 * MIB)
    write(directory / "own", length=2 * MIB)
    filesystems.available(directory)
    after = account.take(directory, policy=Policy())
    assert after.allocated == 10 * MIB
    assert abs(after.used - before.used - 10 * MIB) < MIB
    assert after.promised == 8 * MIB + 4 * MIB


@ALL
def test_a_file_counts_once_and_a_link_is_not_followed(directory: Path) -> None:
    other = directory / "other"
    other.mkdir()
    disk = write(other / "disk", size=SIZE)
    asked = directory / "asked"
    asked.mkdir()
    for name in ("one", "two"):
        (asked / name).hardlink_to(disk)
    (asked / "file").symlink_to(disk)
    (asked / "directory").symlink_to(other)
    assert account.take(asked, policy=Policy()).disks == 1
    both = account.take(asked, other, asked, directory, policy=Policy())
    assert (both.disks, both.virtual_size) == (1, SIZE)


@ALL
def test_the_filesystem_is_not_left(directory: Path, tmpfs: Path) -> None:
    """What is mounted below is not it, nor are directories elsewhere."""
    write(directory / "disk", size=SIZE)
    below = directory / "below"
    below.mkdir()
    elsewhere = write(tmpfs / "disk", size=SIZE)
    filesystems.run("mount", "--bind", tmpfs, below)
    try:
        assert (below / "disk").exists()
        policy = Policy(disk_directories=(tmpfs, below))
        taken = account.take(directory, policy=policy)
    finally:
        filesystems.run("umount", below)
        elsewhere.unlink()
    assert (taken.disks, taken.unreadable) == (1, 0)


@pytest.mark.filesystems("btrfs")
def test_a_subvolume_is_of_its_filesystem(directory: Path) -> None:
    """It has a device number of its own, also a snapshot that shares all of it."""
    volume, snapshot = directory / "volume", directory / "snapshot"
    filesystems.run("btrfs", "subvolume", "create", volume)
    write(volume / "disk", length=4 * MIB)
    filesystems.run("btrfs", "subvolume", "snapshot", volume, snapshot)
    try:
        taken = account.take(directory, policy=Policy())
    finally:
        for one in (snapshot, volume):
            filesystems.run("btrfs", "subvolume", "delete", one)
    assert taken.disks == 2
    assert taken.allocated == 4 * MIB


@ALL
@pytest.mark.parametrize("fault", ["stamp", "header"])
def test_a_malformed_disk_counts_by_its_file(directory: Path, fault: str) -> None:
    disk = make(directory / "disk")
    if fault == "stamp":
        os.setxattr(disk, XATTR, b"{")
    else:
        with disk.open("r+b") as file:
            file.write(b"none")
    os.truncate(disk, SIZE)
    filesystems.at_rest(directory)
    taken = account.take(directory, policy=Policy())
    assert (taken.disks, taken.malformed, taken.unstamped) == (1, 1, 0)
    assert taken.promised == SIZE - disk.stat().st_blocks * 512


def test_what_may_not_be_read_is_counted_by_its_size() -> None:
    """Of a directory that may not be looked into, nobody can say more."""
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being another user takes root")
    program = (
        "import dataclasses, json, sys; from pathlib import Path;"
        "from allocpolicy import Policy;"
        "from allocpolicy.observe import account;"
        "taken = account.take(Path(sys.argv[1]), policy=Policy());"
        "print(json.dumps(dataclasses.asdict(taken)))"
    )
    with ordinary_user.public_directory() as public:
        directory = public / "disks"
        directory.mkdir()
        make(directory / "disk")
        write(directory / "raw", size=SIZE).chmod(0o600)
        (directory / "closed").mkdir(mode=0o700)
        finished = subprocess.run(
            ordinary_user.command(sys.executable, "-c", program, directory),
            capture_output=True,
            text=True,
            check=True,
            cwd=directory,
            env=cli.environment(),
        )
    taken = Account(**json.loads(finished.stdout))
    assert (taken.disks, taken.unreadable) == (2, 3)
    assert taken.promised >= SIZE - MIB
    assert 0 < taken.unwritten <= taken.allocated, "it may all need headroom"
    found = {one["why"]: one for one in json.loads(finished.stdout)["unknown"]}
    assert {why: one["count"] for why, one in found.items()} == {
        "unlisted": 1,
        "unreadable": 2,
    }
    assert found["unlisted"]["example"] == str(directory / "closed")
    assert found["unreadable"]["promised"] == taken.promised


def of_a_raw(disk: Path) -> None:
    write(disk, size=SIZE)


def of_a_disk(disk: Path) -> None:
    make(disk)


def of_a_base(disk: Path) -> None:
    images.qemu_img("create", "-q", "-f", "qcow2", disk, "1G")
    disk.chmod(0o444)


def of_a_backing_file(disk: Path) -> None:
    images.qemu_img("create", "-q", "-f", "qcow2", disk, "1G")
    top = make(disk.with_name("top"))
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", disk, top)


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize("known", [of_a_raw, of_a_disk, of_a_base, of_a_backing_file])
def test_of_most_files_it_is_known_what_they_may_take(
    directory: Path, known: Callable[[Path], None]
) -> None:
    known(directory / "disk")
    taken = account.take(directory, policy=Policy())
    assert (taken.unknown, taken.fits) == ((), True)


def claims(disk: Path) -> None:
    images.qemu_img("create", "-q", "-f", "qcow2", disk, "100M")


def claims_too_much(disk: Path) -> None:
    images.qemu_img("create", "-q", "-f", "qcow2", disk, "60T")
    os.truncate(disk, SIZE)


def is_of_a_newer_qemu(disk: Path) -> None:
    claims(disk)
    with disk.open("r+b") as file:  # an incompatible feature that nobody knows
        file.seek(72)
        file.write((1 << 60).to_bytes(8, "big"))


def is_a_vmdk(disk: Path) -> None:
    images.qemu_img("create", "-q", "-f", "vmdk", disk, "1G")


def has_no_valid_stamp(disk: Path) -> None:
    os.setxattr(make(disk), XATTR, b"{")


def has_no_valid_header(disk: Path) -> None:
    with make(disk).open("r+b") as file:
        file.write(b"none")


def has_lost_its_data(disk: Path) -> None:
    data = disk.with_name("data")
    option = f"data_file={data}"
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", option, disk, SIZE)
    provisioned(disk)
    data.unlink()


def provisioned(disk: Path) -> None:
    choice = Choice(strategy="none", options={})
    with disk.open("r+b") as file:
        stamp = Stamp(requested=choice, effective=choice, format=DiskFormat.QCOW2)
        stamps.write(file.fileno(), stamp)


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize(
    ("makes", "why"),
    [
        (claims, Why.CLAIMED),
        (claims_too_much, Why.DISBELIEVED),
        (is_of_a_newer_qemu, Why.DISBELIEVED),
        (is_a_vmdk, Why.FOREIGN),
        (has_no_valid_stamp, Why.MALFORMED),
        (has_no_valid_header, Why.MALFORMED),
        (has_lost_its_data, Why.DATA_FILE),
    ],
)
def test_what_a_file_may_take_can_be_unknown(
    directory: Path, makes: Callable[[Path], None], why: Why
) -> None:
    """It counts as what bounds it; and nobody says that all of them fit."""
    disk = directory / "disk"
    makes(disk)
    taken, (entry,) = account.listing(directory, policy=Policy())
    assert taken.fits is None
    assert taken.unknown == (
        Unknown(why=why, count=1, promised=taken.promised, example=str(disk)),
    )
    assert entry.unknown is why
    status = disk.stat()
    assert taken.promised >= status.st_size - status.st_blocks * 512
    assert f"({disk})" in taken.unknown[0].said


@pytest.mark.filesystems("ext4")
def test_what_qemu_has_open_as_raw_is_known(directory: Path) -> None:
    claims(directory / "disk")
    with images.held_by_qemu(directory / "disk", format="raw"):
        assert account.take(directory, policy=Policy()).unknown == ()


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_a_lease_that_is_taken_meanwhile_is_not_broken(directory: Path) -> None:
    """Of twenty commands that start at once, each looks at the others' disks."""
    write(directory / "disk", size=SIZE)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(directory / "disk", os.O_RDWR)

    def listed(path: str) -> tree.Listing:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return tree.listed(path)

    try:
        taken = account.take(directory, policy=Policy(), listed=listed)
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
    assert taken.unreadable == 1


@ALL
def test_a_lease_is_not_broken(directory: Path) -> None:
    """A disk that is being rewritten is not opened; nor is the one that is left out."""
    disk = make(directory / "disk")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(disk, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        taken = account.take(directory, policy=Policy())
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
        others = account.take(directory, policy=Policy(), other_than=(fd,))
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
    assert (taken.disks, taken.unreadable) == (1, 1)
    assert [one.why for one in taken.unknown] == [Why.UNREADABLE]
    assert taken.unwritten == taken.allocated  # all of it may be reserved
    assert (others.disks, others.unreadable, others.promised) == (0, 0, 0)


@pytest.fixture
def small(request: pytest.FixtureRequest, fresh_filesystem: FreshFilesystem) -> Path:
    return fresh_filesystem(request.param, size=400 * MIB)


@pytest.mark.parametrize("small", ["ext4", "xfs", "btrfs"], indirect=True)
@pytest.mark.parametrize("short", [False, True])
def test_a_shortfall_says_whether_all_disks_can_be_filled(
    small: Path, short: bool
) -> None:
    """By half of the last disk's size; what the filesystem's trees take is less."""
    size, margin = 32 * MIB, 16 * MIB
    free = account.take(small, policy=Policy()).free
    count = free // size + (1 if short else -1)
    disks = [write(small / str(one), length=0, size=size) for one in range(count)]
    taken = account.take(small, policy=Policy())
    assert taken.promised == count * size
    assert (taken.shortfall > 0) is short is (taken.overcommit_ratio > 1)
    if short and taken.shortfall < margin:
        disks.append(write(small / "more", length=0, size=size))
    assert fills(disks, size=size) is not short


def fills(disks: list[Path], *, size: int) -> bool:
    """Write all of each disk; False when the filesystem is full before."""
    try:
        for disk in disks:
            with disk.open("r+b", buffering=0) as file:
                for _ in range(size // MIB):
                    file.write(os.urandom(MIB))
                os.fsync(file.fileno())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


@pytest.mark.filesystems("ext4")
def test_what_replaced_a_listed_file_is_not_opened(directory: Path) -> None:
    """Whoever owns the directory may put a device there; opening one can act.

    A lease tells whether its file was opened, even for a moment.
    """
    write(directory / "disk", size=SIZE)
    write(directory / "other", size=SIZE)
    listing = tree.listed(str(directory))
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(directory / "other", os.O_RDWR)
    try:
        os.replace(directory / "other", directory / "disk")
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        ledger = Ledger(
            other_than=(),
            measured={},
            shared=(),
            image_cache_dir=None,
        )
        (disk,) = (one for one in listing.files if Path(one[0]).name == "disk")
        ledger.enter(dataclasses.replace(listing, files=[disk]))
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
    assert ledger.unreadable == 1
    assert [one.kind for one in ledger.entries] == [Kind.UNSTAMPED]


def test_a_directory_that_became_a_link_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "below").mkdir(parents=True)
    (tmp_path / "theirs" / "below" / "disk").touch()
    (tmp_path / "link").symlink_to("theirs")
    for place in (tmp_path / "link", tmp_path / "link" / "below"):
        found = tree.listed(str(place))
        assert found.error is not None
        assert not found.files
