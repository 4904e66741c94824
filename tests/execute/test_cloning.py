"""Disks that are cloned from a prepared one: what the steps make, whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from allocpolicy import (
    Access,
    DiskFormat,
    InvalidRequest,
    NotEnoughSpace,
    Order,
    Policy,
    PreparedDisks,
    Report,
    Unsupported,
    provision,
)
from allocpolicy.image_cache.entry import XATTR
from allocpolicy.images import stamp
from allocpolicy.operations.provision import prepared
from allocpolicy.progress import unwatched
from allocpolicy.record import replace
from allocpolicy.registry import plugin_file
from allocpolicy.storage import inode, named_lock, unchanged
from tests.conftest import FreshFilesystem
from tests.harness import capabilities, filesystems, images, plugin
from tests.harness.cli import command, environment
from tests.harness.images import GIB, MIB, qemu_img

pytestmark = pytest.mark.filesystems("xfs", "btrfs")
SIZE = 10 * GIB
POLICY = Policy(default_strategy="performance", configured=False)
CLONE = "clone the prepared disk"


def order(disk: Path, *, base: Path | None = None, format: str = "qcow2") -> Order:
    return Order(destination=disk, virtual_size=SIZE, base=base, format=format)


def prepare(
    directory: Path, *, base: Path | None = None, format: str = "qcow2"
) -> Path:
    """Prepare such disks in a directory; return the prepared one."""
    wanted = order(directory / "unnamed", base=base, format=format)
    report = prepared(wanted, policy=POLICY, watch=unwatched)
    assert not wanted.destination.exists()
    (path,) = [
        directory / "_base" / name
        for name in prepared_names(directory)
        if name in report.steps[-1]
    ]
    assert str(path) in report.steps[-1]
    return path


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def prepared_names(directory: Path) -> list[str]:
    found = (directory / "_base").glob("*.prepared.*")
    return [path.name for path in found if not path.name.startswith(".")]


def is_clone(report: Report) -> bool:
    return report.steps[0].startswith(CLONE)


def settled(base: Path) -> Path:
    """Return the image, once another write to it is sure to show in its ctime."""
    while base.stat().st_ctime > time.time() - 2.1:
        time.sleep(0.1)
    return base


def make(directory: Path, base: Path | None, name: str = "disk") -> Report:
    return provision(order(directory / name, base=base), policy=POLICY)


@pytest.fixture
def base(directory: Path) -> Path:
    return images.make_base(directory, size=64 * MIB)


def test_a_clone_is_what_the_steps_make(directory: Path, base: Path) -> None:
    """The guest's content, the map and the tables are the same."""
    first = make(directory, base, "first")
    prepare(directory, base=base)
    second = make(directory, base, "second")
    assert not is_clone(first)
    assert is_clone(second)
    formats = ("qcow2", "qcow2")
    one, two = directory / "first", directory / "second"
    assert images.same_content(one, two, formats=formats)
    assert images.same_content(two, base, formats=("qcow2", "raw"))
    checks = [images.check(disk) for disk in (one, two)]
    for check in checks:  # what differs, or may: where the clusters are
        del check["filename"]
        check.pop("fragmented-clusters", None)
    assert checks[0] == checks[1]
    assert images.fully_mapped(two)
    assert first.observed and second.observed
    assert second.observed.full_size == first.observed.full_size
    assert second.observed.mapping is first.observed.mapping
    assert second.stamp == first.stamp


def test_owner_mode_and_stamp_are_the_disks_own(directory: Path) -> None:
    """Nothing of the prepared disk's is on the clone but its content."""
    prepare(directory)
    disk = directory / "disk"
    wanted = Order(
        destination=disk,
        virtual_size=SIZE,
        access=Access(mode=0o640, owner=(1234, 4321)),
        labels={"tier": "gold"},
    )
    assert is_clone(provision(wanted, policy=POLICY))
    status = disk.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (
        0o640,
        1234,
        4321,
    )
    assert os.listxattr(disk) == [stamp.XATTR]


def test_a_base_that_changed_is_another(directory: Path, base: Path) -> None:
    """Nobody gets the content of yesterday's image, whatever its dates say."""
    prepare(directory, base=base)
    assert is_clone(make(directory, base, "before"))
    times = base.stat().st_atime_ns, base.stat().st_mtime_ns
    with base.open("r+b") as file:
        file.write(b"another")
    os.utime(base, ns=times)
    assert not is_clone(make(directory, base, "after"))
    formats = ("qcow2", "raw")
    assert images.same_content(directory / "after", base, formats=formats)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(b"theirs")


def swap(path: Path) -> None:
    copy = path.with_name("copy")
    subprocess.run(["cp", "--archive", "--reflink=always", path, copy], check=True)
    copy.replace(path)


def of_somebody(path: Path) -> None:
    os.chown(path, 1234, 1234)


@pytest.mark.parametrize(
    "tamper",
    [
        overwrite,
        swap,
        of_somebody,
        lambda path: path.chmod(0o666),
        lambda path: os.truncate(path, 0),
        lambda path: os.removexattr(path, XATTR),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda path: (path.unlink(), path.mkdir()),
        become_fifo,
    ],
)
def test_what_was_tampered_with_is_not_believed(
    directory: Path, base: Path, tamper: Callable[[Path], object]
) -> None:
    """The disk is made by its steps, and is what it should be."""
    tamper(prepare(directory, base=base))
    assert not is_clone(make(directory, base))
    disk = directory / "disk"
    assert images.same_content(disk, base, formats=("qcow2", "raw"))


@pytest.mark.parametrize(
    "tamper",
    [
        lambda path: path.write_text("{}"),
        lambda path: path.write_text(path.read_text()[:-5]),
        lambda path: path.write_text(path.read_text().replace(": 1,", ": 2,", 1)),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: os.chown(path, 1234, 1234),
        lambda path: path.chmod(0o666),
        lambda path: path.parent.chmod(0o777),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        become_fifo,
    ],
)
def test_nothing_is_believed_without_its_record(
    directory: Path, tamper: Callable[[Path], object]
) -> None:
    """Garbage, another version's record, or one that others can write is none."""
    found = prepare(directory)
    tamper(found.parent / ".prepared" / found.name)
    assert not is_clone(make(directory, None))


def test_an_image_that_is_touched_again_and_again_fills_no_cache(
    directory: Path, base: Path
) -> None:
    """What was prepared of its earlier states goes, of all sizes; no other does."""
    other = base.with_name("other")
    other.write_bytes(os.urandom(MIB))
    kept = prepare(directory, base=other)
    blank = prepare(directory)
    for number in range(3):
        os.utime(base)
        for size in (SIZE, 2 * SIZE):
            wanted = Order(destination=directory / "no", virtual_size=size, base=base)
            prepared(wanted, policy=POLICY, watch=unwatched)
        assert len(prepared_names(directory)) == 2 + 2, number
        records = os.listdir(directory / "_base" / ".prepared")
        assert sorted(records) == sorted(prepared_names(directory))
    assert kept.exists()
    assert blank.exists()
    assert is_clone(make(directory, base))


def test_what_is_not_believed_is_prepared_anew(directory: Path) -> None:
    """A kill before the record was written costs nothing but time."""
    found = prepare(directory)
    (found.parent / ".prepared" / found.name).unlink()
    before = found.stat().st_ino
    assert prepare(directory) == found
    assert found.stat().st_ino != before
    assert is_clone(make(directory, None))


def test_removing_a_prepared_disk_harms_no_disk(directory: Path, base: Path) -> None:
    """What was cloned shares blocks with it, and needs none of its names."""
    found = prepare(directory, base=base)
    assert is_clone(make(directory, base))
    found.unlink()
    disk = directory / "disk"
    assert images.same_content(disk, base, formats=("qcow2", "raw"))
    assert not is_clone(make(directory, base, "next"))


@pytest.mark.parametrize("source", ["qcow2", "vmdk"])
@pytest.mark.parametrize("format", list(DiskFormat))
def test_disks_of_any_base_are_cloned(
    directory: Path, base: Path, source: str, format: str
) -> None:
    """A qcow2 is read once, a foreign image is converted once; raw disks likewise."""
    image = images.convert(base, format=source)
    prepare(directory, base=image, format=format)
    disk = directory / "disk"
    report = provision(order(disk, base=image, format=format), policy=POLICY)
    assert is_clone(report)
    assert images.same_content(disk, base, formats=(format, "raw"))


def test_off_means_off(directory: Path) -> None:
    """Nothing that was prepared is used, and nothing is prepared."""
    prepare(directory)
    off = Policy(
        default_strategy="performance",
        prepared_disks=PreparedDisks(enabled=False),
        configured=False,
    )
    wanted = order(directory / "disk")
    assert not is_clone(provision(wanted, policy=off))
    with pytest.raises(InvalidRequest, match="prepared_disks is off"):
        prepared(order(directory / "next"), policy=off, watch=unwatched)


def test_a_reserved_disk_is_never_a_clone(directory: Path) -> None:
    """Its storage is its own."""
    policy = Policy(default_strategy="space", configured=False)
    wanted = Order(destination=directory / "disk", virtual_size=64 * MIB)
    with pytest.raises(InvalidRequest, match="its storage is reserved or written"):
        prepared(wanted, policy=policy, watch=unwatched)
    assert not is_clone(provision(wanted, policy=policy))


def test_a_clone_keeps_the_hint_for_extents(directory: Path) -> None:
    """XFS allocates for it as for a disk that its steps made."""
    make(directory, None, "first")
    prepare(directory)
    make(directory, None, "second")
    hints = [
        subprocess.run(
            ["xfs_io", "-r", "-c", "extsize", directory / name],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.partition(" ")[0]
        for name in ("first", "second")
    ]
    assert hints[0] == hints[1]


@pytest.mark.filesystems("xfs")
def test_qemu_finds_nothing_wrong(directory: Path, base: Path) -> None:
    """A guest's writes go to the clone alone."""
    found = prepare(directory, base=base)
    before = found.stat().st_ctime_ns
    make(directory, base, "disk")
    disk = directory / "disk"
    images.qemu_io(disk, "write -P 7 1M 3M", "discard 8M 1M", format="qcow2")
    qemu_img("check", "-f", "qcow2", disk)
    make(directory, base, "other")
    other = directory / "other"
    assert images.same_content(other, base, formats=("qcow2", "raw"))
    assert found.stat().st_ctime_ns == before


LABELLING = """
import os
from allocpolicy import *

class Label:
    states = {states}
    @property
    def recipe(self):
        self.states = self.states - 1
        return "label" if self.states >= 0 else None
    def describe(self): return "label it"
    def run(self, target, progress): os.pwrite(target.fd, b"{label}", 0)

class Labelling(Strategy):
    api_version = max(API_VERSIONS)
    summary = "labels"
    def plan(self, *, request, options, facts):
        size = request.virtual_size
        return Plan(
            mode=Mode.STAGED,
            steps=(CreateRaw(virtual_size=size), Label()),
            peak_bytes=1 << 20,
            promised_bytes=size,
        )
    def verify(self, *, options, observation):
        return Verdict(judgement=Judgement.MEETS, reason="")
    def attach(self, *, options, observation):
        return Attachment(
            discard="unmap", detect_zeroes="off", cache="none", io="native"
        )
"""


def labelled(directory: Path, plugin: Path, *, label: str, states: int = 99) -> Report:
    """Prepare a disk by a strategy in a file, if that can be; make one, and report."""
    plugin.write_text(LABELLING.format(label=label, states=states))
    policy = Policy(default_strategy="labelling", configured=False)
    wanted = order(directory / label, format="raw")
    with plugin_file.registered([plugin]):
        with contextlib.suppress(InvalidRequest):
            prepared(wanted, policy=policy, watch=unwatched)
        return provision(wanted, policy=policy)


def test_code_that_changed_makes_another_disk(directory: Path) -> None:
    """Whoever writes a plugin gets what it does, and no disk of its last version."""
    with plugin.directory() as place:
        for label in ("one", "two"):
            assert is_clone(labelled(directory, place / "label.py", label=label))
            with (directory / label).open("rb") as file:
                assert file.read(3) == label.encode()
    assert len(prepared_names(directory)) == 2


@pytest.mark.parametrize("states", range(4))  # as often as it is asked for
def test_a_recipe_that_comes_and_goes_is_none(directory: Path, states: int) -> None:
    """However often it is stated: a disk is never known by the lack of one."""
    with plugin.directory() as place:
        file = place / "label.py"
        report = labelled(directory, file, label="one", states=states)
    assert not is_clone(report)
    assert prepared_names(directory) == []


@pytest.mark.filesystems("btrfs")
def test_images_of_two_subvolumes_are_two(fresh_filesystem: FreshFilesystem) -> None:
    """Also with one inode number, generation, size, mtime and ctime, as snapshots."""
    mount_point = fresh_filesystem("btrfs")
    policy = replace(POLICY, image_cache_dir=mount_point / "cache")
    one, two = (mount_point / name for name in ("one", "two"))
    for _ in range(100):  # until both are written in one tick of the clock
        filesystems.run("btrfs", "-q", "subvolume", "create", str(one))
        (one / "base").write_bytes(bytes(MIB))
        filesystems.run("btrfs", "-q", "subvolume", "snapshot", str(one), str(two))
        files = [os.open(place / "base", os.O_WRONLY) for place in (one, two)]
        for number, fd in enumerate(files):
            os.pwrite(fd, bytes([number]), 0)
        states = [unchanged.state(fd) for fd in files]
        for fd in files:
            os.close(fd)
        if states[0] == states[1]:
            break
        for place in (one, two):
            filesystems.run("btrfs", "-q", "subvolume", "delete", str(place))
    assert states[0] == states[1]
    for place in (one, two):
        wanted = order(place / "disk", base=place / "base")
        prepared(wanted, policy=policy, watch=unwatched)
        assert is_clone(provision(wanted, policy=policy))
        formats = ("qcow2", "raw")
        assert images.same_content(place / "disk", place / "base", formats=formats)


def wait(directory: Path) -> None:
    """Wait until what is prepared in the background is there, or has failed."""
    filesystems.wait_for_preparing(directory)


def test_the_first_disk_is_prepared_in_the_background(
    directory: Path, base: Path
) -> None:
    """The second one is a clone, and nothing else is left beside them."""
    first = make(directory, settled(base), "first")
    wait(directory)
    second = make(directory, base, "second")
    assert not is_clone(first)
    assert is_clone(second)
    one, two = directory / "first", directory / "second"
    assert images.same_content(one, two, formats=("qcow2", "qcow2"))
    assert len(prepared_names(directory)) == 1
    names = {path.name for path in directory.iterdir()} - {base.name, "files"}
    assert names == {"_base", "first", "second"}


def test_a_program_without_room_for_a_thread_gets_its_disk(directory: Path) -> None:
    """What can't be awaited is prepared all the same: the disk is there."""
    before = threading.stack_size(1 << 47)  # more than there are addresses
    try:
        with pytest.raises(RuntimeError, match="thread"):
            threading.Thread(target=print).start()
        make(directory, None, "first")
    finally:
        threading.stack_size(before)
    wait(directory)
    assert is_clone(make(directory, None, "second"))


def test_what_prepares_keeps_nothing_open_of_its_parents(directory: Path) -> None:
    """Neither what the program leaves to its children, nor what lies above a limit."""
    cache = directory / "_base"
    cache.mkdir()
    status = cache.stat()
    policy = replace(POLICY, prepared_disks=PreparedDisks(max_bytes=GIB))
    room = f"prepared-{status.st_dev:x}-{status.st_ino:x}"
    reader, writer = os.pipe()
    high = fcntl.fcntl(writer, fcntl.F_DUPFD, 1000)  # open in children, too
    os.close(writer)
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with named_lock.hold(room, lock_path=policy.lock_path):  # it waits for that
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (900, most))
            provision(order(directory / "first"), policy=policy)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
            os.close(high)
        assert select.select([reader], [], [], 60)[0]
        assert os.read(reader, 1) == b""  # nobody has the other end open
        assert filesystems.preparing(directory)
    os.close(reader)


def test_twenty_at_once_are_prepared_once(directory: Path, base: Path) -> None:
    """Each is whole, and there is one to be cloned."""
    settled(base)
    with ThreadPoolExecutor(max_workers=20) as pool:
        made = [pool.submit(make, directory, base, f"disk{n}") for n in range(20)]
        for one in made:
            one.result()
    wait(directory)
    assert len(prepared_names(directory)) == 1
    assert is_clone(make(directory, base, "next"))
    for disk in (directory / "disk7", directory / "next"):
        assert images.same_content(disk, base, formats=("qcow2", "raw"))


def test_an_image_that_may_still_change_unseen_is_not_prepared_from(
    directory: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write within the same tick of the clock would leave its dates as they are."""
    monkeypatch.setattr(inode, "_SETTLED", 10**15)  # a busy machine may take long
    make(directory, base)
    wait(directory)
    assert prepared_names(directory) == []


def test_an_image_that_nobody_can_hold_is_not_prepared_from_at_once(
    directory: Path, base: Path
) -> None:
    """A page that its owner keeps mapped may be written to, and no date shows it."""
    os.chown(base, 1234, 1234)
    settled(base)
    disk = directory / "disk"
    arguments = ("provision", disk, "--base", base, "--strategy", "performance")
    subprocess.run(
        capabilities.without("lease", "setuid", command=command(*arguments)),
        env=environment(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wait(directory)
    assert prepared_names(directory) == []


@pytest.mark.filesystems("ext4")
def test_nothing_is_prepared_without_reflink(directory: Path, base: Path) -> None:
    """Nothing at all happens there, and there is nothing to be told."""
    make(directory, settled(base))
    wait(directory)
    assert not (directory / "_base").exists()
    with pytest.raises(Unsupported, match="can share no blocks"):
        prepare(directory, base=base)
    assert prepared_names(directory) == []


def test_nobody_reads_in_it_what_the_base_hides(directory: Path, base: Path) -> None:
    """A prepared disk is for us alone: no VM opens it."""
    base.chmod(0o600)
    assert prepare(directory, base=base).stat().st_mode & 0o7777 == 0o400


def test_a_prepared_disk_that_breaks_the_promise_is_removed(directory: Path) -> None:
    """The disk is made by its steps, and the next one is prepared anew."""
    found = prepare(directory)
    record = found.parent / ".prepared" / found.name
    other = directory / "other"
    make(directory, None, "other")
    # Somebody with our rights put another disk there, and another record.
    os.truncate(other, other.stat().st_size // 2)
    known = json.loads(record.read_text())
    found.unlink()
    other.replace(found)
    found.chmod(0o400)
    with found.open("rb") as file:
        known |= {"file": unchanged.state(file.fileno()), "tables": None}
    record.write_text(json.dumps(known))
    before = found.stat().st_ino
    assert not is_clone(make(directory, None))
    wait(directory)
    assert not found.exists() or found.stat().st_ino != before
    assert images.check(directory / "disk")


@pytest.mark.filesystems("xfs", "btrfs")
def test_what_is_killed_leaves_nothing(directory: Path) -> None:
    """Whenever it is, no file is left that somebody would have to remove."""
    moments = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2]
    for number, moment in enumerate(moments):
        make(directory, None, f"disk{number}")
        time.sleep(moment)
        for process in filesystems.preparing(directory):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(process, signal.SIGKILL)
        wait(directory)
        names = prepared_names(directory)
        left = {path.name for path in (directory / "_base").glob("**/*")}
        assert left <= {*names, ".prepared"}
        assert len(names) <= 1
    prepare(directory)
    assert is_clone(make(directory, None, "last"))


def test_a_full_filesystem_is_left_alone(fresh_filesystem: FreshFilesystem) -> None:
    """What is free is for disks: nothing is prepared of the last of it."""
    mount_point = fresh_filesystem("xfs", size=400 * MIB)
    filesystems.leave_free(mount_point, 48 * MIB)
    make(mount_point, None)
    filesystems.wait_for_preparing(mount_point)
    assert not (mount_point / "_base").exists() or not prepared_names(mount_point)
    with pytest.raises(NotEnoughSpace, match="keep a prepared disk"):
        prepare(mount_point)


def test_max_bytes_is_kept(directory: Path) -> None:
    """The least recently used make room; what is larger than all isn't kept."""
    most = PreparedDisks(max_bytes=2 * MIB)
    policy = Policy(default_strategy="performance", prepared_disks=most)
    for size in (10, 11):
        wanted = Order(destination=directory / "disk", virtual_size=size * GIB)
        prepared(wanted, policy=policy, watch=unwatched)
    assert len(prepared_names(directory)) == 1
    wanted = Order(destination=directory / "disk", virtual_size=20 * GIB)
    with pytest.raises(NotEnoughSpace, match="prepared_disks allows no more"):
        prepared(wanted, policy=policy, watch=unwatched)
