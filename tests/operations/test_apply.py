"""Existing disks are brought to their policy, and nothing of them is ever lost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    Change,
    ImageError,
    Policy,
    Progress,
    apply,
    record_changes,
)
from allocpolicy.execute import hold
from allocpolicy.operations import again
from allocpolicy.progress import Advance
from allocpolicy.record import replace
from allocpolicy.storage import fsxattr, inode_flags, lease, zeroes
from allocpolicy.storage.inode_flags import InodeFlag
from tests.harness import images, logs, ordinary_user
from tests.harness import opener as opening
from tests.harness.cli import allocpolicy, at_once, command, environment, provision
from tests.harness.filesystems import available, leave_free
from tests.harness.images import MIB
from tests.harness.patience import PATIENCE

SIZE = 64 * MIB
ALL = pytest.mark.filesystems("ext4", "xfs", "btrfs")
REFLINK = pytest.mark.filesystems("xfs", "btrfs")
SPACE = ("--strategy", "space")
PERFORMANCE = ("--strategy", "performance")
# Version 2, then (tag, permissions, id): owner, user 12, group, mask, others; acl(5)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 12),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)
FALLOC = (*PERFORMANCE, "--extra-spec", "allocpolicy:performance.data=falloc")


def applied(*arguments: object, **variables: str) -> Any:
    """Apply to one disk, which must succeed, and return its row."""
    finished = allocpolicy("apply", *arguments, "-f", "json", **variables)
    assert finished.status == 0, finished.stderr
    (row,) = finished.document
    return row


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw image of 16 MiB: data, a hole, data, and a tail that is no block."""
    path = tmp_path_factory.mktemp("base") / "base.raw"
    draw = random.Random(4)
    with path.open("wb") as file:
        file.write(draw.randbytes(3 * MIB))
        file.seek(9 * MIB)
        file.write(draw.randbytes(2 * MIB + 512))
        file.truncate(16 * MIB)
    return path


def write_as_guest(disk: Path, *, format: str) -> None:
    """Write what a guest would: over the base image, beyond it, zeroes, a discard."""
    writes = ("write -P 1 1M 70k", "write -P 2 20M 1M", "write -P 3 63M 1M")
    images.qemu_io(disk, *writes, "write -z 2M 64k", format=format)


def punch(disk: Path) -> None:
    """Discard 8 MiB at the end of the file that were not written."""
    offset = disk.stat().st_size - 16 * MIB
    images.qemu_io(disk, f"discard {offset} 8M", format="raw", discard="unmap")


def content(disk: Path, *, format: str) -> str:
    """Return the checksum of what the guest reads of the disk."""
    copy = disk.with_suffix(".content")
    images.qemu_img("convert", "-U", "-f", format, "-O", "raw", disk, copy)
    try:
        return hashlib.sha256(copy.read_bytes()).hexdigest()
    finally:
        copy.unlink()


def assert_only(directory: Path, *names: str) -> None:
    assert sorted(os.listdir(directory)) == sorted(names)


def used(disk: Path) -> int:
    return disk.stat().st_blocks * 512


@ALL
@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("strategy", ["space", "performance"])
def test_holes_that_a_discard_punched_are_filled_again_in_place(
    directory: Path, base: Path, strategy: str, format: str
) -> None:
    disk = directory / "disk"
    spec = "allocpolicy:performance.data=falloc"
    choice = ("--strategy", strategy, "--extra-spec", spec)
    provision(disk, "--base", base, "--size", SIZE, "--format", format, *choice)
    before, inode = content(disk, format=format), disk.stat().st_ino
    punch(disk)
    assert used(disk) < disk.stat().st_size
    row = applied(disk)
    assert (row["mode"], row["verdict"]) == ("in_place", "meets")
    assert row["allocation"] == "reserved"
    assert used(disk) >= SIZE
    assert disk.stat().st_ino == inode
    assert content(disk, format=format) == before
    assert applied(disk)["mode"] == "nothing"


@ALL
def test_clusters_that_a_discard_unmapped_are_mapped_again(
    directory: Path, base: Path
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE, *PERFORMANCE)
    images.qemu_io(disk, "discard 0 2M", format="qcow2", discard="unmap")
    before = content(disk, format="qcow2")
    assert not images.fully_mapped(disk)
    row = applied(disk)
    assert (row["mode"], row["mapping"], row["verdict"]) == ("staged", "full", "meets")
    assert images.fully_mapped(disk)
    assert content(disk, format="qcow2") == before


@ALL
@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("data", ["sparse", "falloc", "full"])
def test_an_overlay_becomes_a_standalone_performance_disk(
    directory: Path, base: Path, data: str, *, written: bool
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    if written:
        write_as_guest(disk, format="qcow2")
    before = content(disk, format="qcow2")
    spec = f"allocpolicy:performance.data={data}"
    row = applied(disk, *PERFORMANCE, "--extra-spec", spec)
    assert row["mode"] == "staged"
    assert row["mapping"] == "full"
    expected = {"sparse": "thin", "falloc": "reserved", "full": "written"}
    assert row["allocation"] == expected[data]
    assert "backing-filename" not in images.info(disk, format="qcow2")
    assert images.fully_mapped(disk)
    assert "leaks" not in images.check(disk)
    assert content(disk, format="qcow2") == before
    assert_only(directory, "disk")
    # The new policy is the disk's own from now on.
    assert applied(disk)["mode"] == "nothing"
    assert applied(disk)["strategy"] == "performance"


@ALL
@pytest.mark.parametrize(
    "options", ["extended_l2=on", "compat=0.10", "cluster_size=4k", "compressed"]
)
def test_every_kind_of_qcow2_can_be_rewritten(
    directory: Path, base: Path, options: str
) -> None:
    """Subclusters, version 2, tiny clusters, compressed ones, in two layers."""
    below, disk = directory / "below", directory / "disk"
    if options == "compressed":
        images.qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", base, below)
    else:
        images.qemu_img(
            "convert", "-f", "raw", "-O", "qcow2", "-o", options, base, below
        )
    kept = [] if options == "compressed" else ["-o", options]
    backing = ["-F", "qcow2", "-b", below]
    images.qemu_img("create", "-q", "-f", "qcow2", *kept, *backing, disk, SIZE)
    write_as_guest(disk, format="qcow2")
    before = content(disk, format="qcow2")
    row = applied(disk, "--format", "qcow2", *FALLOC)
    assert (row["mode"], row["mapping"]) == ("staged", "full")
    assert content(disk, format="qcow2") == before
    assert "leaks" not in images.check(disk)


@ALL
@pytest.mark.parametrize("cluster_size", ["4k", "256k", "512k", "2M"])
def test_compressed_clusters_of_any_size_can_be_rewritten(
    directory: Path, cluster_size: str
) -> None:
    """Inflated data lies anywhere in memory, which O_DIRECT doesn't take."""
    raw, disk = directory / "raw", directory / "disk"
    raw.write_bytes(b"".join(b"%015d\n" % number for number in range(5 * MIB >> 4)))
    options = f"cluster_size={cluster_size}"
    images.qemu_img(
        *("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, disk)
    )
    assert images.check(disk)["compressed-clusters"]
    assert applied(disk, "--format", "qcow2", *FALLOC)["mode"] == "staged"
    assert images.same_content(raw, disk, formats=("raw", "qcow2"))


@ALL
def test_a_standalone_disk_of_another_kind_is_reserved_in_place(
    directory: Path, base: Path
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE, *PERFORMANCE)
    before = content(disk, format="qcow2")
    row = applied(disk, "--strategy", "space")
    assert row["verdict"] == "meets"
    assert row["allocation"] == "reserved"
    assert content(disk, format="qcow2") == before
    assert not images.check(disk).get("leaks")


@ALL
@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_storage_is_given_back_only_when_asked_for(
    directory: Path, base: Path, format: str
) -> None:
    disk = directory / "disk"
    choice = ("--format", format, "--strategy", "space")
    provision(disk, "--base", base, "--size", SIZE, *choice)
    write_as_guest(disk, format=format)
    before = content(disk, format=format)
    row = applied(disk, "--strategy", "none")
    assert row["mode"] == "stamped"
    assert used(disk) >= SIZE
    row = applied(disk, "--strategy", "none", "--thin")
    assert (row["mode"], row["allocation"]) == ("staged", "thin")
    assert used(disk) < SIZE // 2
    assert content(disk, format=format) == before
    assert applied(disk, "--thin")["mode"] == "nothing"


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("data", [None, "falloc", "full"])
def test_what_has_nothing_to_give_back_is_left_alone(
    directory: Path, format: str, data: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside a running VM, and by a dry run's word."""
    disk = directory / "disk"
    full = ("--extra-spec", f"allocpolicy:performance.data={data}")
    choice = (*PERFORMANCE, *full) if data else SPACE
    provision(disk, "--size", SIZE, "--format", format, *choice)
    before = disk.stat()
    monkeypatch.setattr(hold, "_PATIENCE", 0.0)  # it stays open
    with disk.open("rb"):
        for options in ((), ("--dry-run",)):
            row = applied(disk, "--thin", *options)
            assert (row["changed"], row["mode"], row["steps"]) == (False, "nothing", [])
    assert disk.stat().st_ctime_ns == before.st_ctime_ns


@ALL
def test_a_rewrite_keeps_the_storage_that_a_disk_has(
    directory: Path, base: Path
) -> None:
    """A reserved disk stays reserved under a policy that doesn't ask for it."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE, *SPACE)
    row = applied(disk, *PERFORMANCE)
    assert (row["mode"], row["allocation"]) == ("staged", "reserved")
    provision(directory / "other", "--base", base, "--size", SIZE, *SPACE)
    row = applied(directory / "other", *PERFORMANCE, "--thin")
    assert (row["mode"], row["allocation"]) == ("staged", "thin")


@REFLINK
@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_shared_blocks_become_the_disks_own(
    directory: Path, base: Path, format: str
) -> None:
    """A reflinked snapshot takes the reservation away, until it is copied."""
    disk = directory / "disk"
    choice = ("--format", format, "--strategy", "space")
    provision(disk, "--base", base, "--size", SIZE, *choice)
    write_as_guest(disk, format=format)
    before = content(disk, format=format)
    snapshot = directory / "snapshot"
    snapshot.touch()
    # btrfs shares the blocks of NOCOW files with such only; xfs has no such flag.
    subprocess.run(["chattr", "+C", snapshot], capture_output=True, check=False)
    subprocess.run(["cp", "--reflink=always", disk, snapshot], check=True)
    row = applied(disk)
    assert (row["mode"], row["allocation"]) == ("staged", "reserved")
    assert row["guaranteed"]
    assert content(disk, format=format) == before


@contextmanager
def opened(path: Path, *, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def give_attributes(disk: Path, kind: str) -> None:
    os.chown(disk, 1234, 4321)
    disk.chmod(0o640)
    os.setxattr(disk, "user.note", b"kept")
    os.setxattr(disk, "trusted.note", b"kept as well")
    os.setxattr(disk, "system.posix_acl_access", ACL)
    with opened(disk, flags=os.O_RDWR) as fd:
        inode_flags.add(fd, InodeFlag.NODUMP | InodeFlag.NOATIME)
        if kind == "xfs":
            fsxattr.write(fd, replace(fsxattr.read(fd), project=77))


def attributes(disk: Path) -> tuple[object, ...]:
    status = disk.stat()
    names = sorted(name for name in os.listxattr(disk) if name != "user.allocpolicy")
    with opened(disk) as fd:
        flags = inode_flags.read(fd) & (InodeFlag.NODUMP | InodeFlag.NOATIME)
        project = fsxattr.read(fd).project
    values = [(name, os.getxattr(disk, name)) for name in names]
    access = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
    return (*access, flags, project, values)


@ALL
def test_a_rewrite_keeps_owner_mode_xattrs_acl_flags_and_project(
    directory: Path, base: Path, filesystem_kind: str
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    give_attributes(disk, filesystem_kind)
    before = attributes(disk)
    # Its new owner can't reach the base image, which pytest keeps to its own user.
    trusted = {"OS_ALLOCPOLICY__TRUSTED_BASE_DIRECTORIES": str(base.parent)}
    assert applied(disk, *PERFORMANCE, **trusted)["mode"] == "staged"
    assert attributes(disk) == before


@pytest.mark.filesystems("xfs")
def test_the_flags_of_xfs_are_kept(directory: Path, base: Path) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    added = fsxattr.FS_XFLAG_NODEFRAG | fsxattr.FS_XFLAG_COWEXTSIZE
    with opened(disk, flags=os.O_RDWR) as fd:
        found = fsxattr.read(fd)
        flags = found.flags | added
        fsxattr.write(fd, replace(found, flags=flags, cow_extent_size=128 << 10))
    assert applied(disk, *PERFORMANCE)["mode"] == "staged"
    with opened(disk) as fd:
        found = fsxattr.read(fd)
    assert found.flags & added == added
    assert found.cow_extent_size == 128 << 10


@pytest.mark.filesystems("xfs")
@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_large_extent_size_of_the_directory_takes_nothing_more(
    directory: Path, base: Path, format: str
) -> None:
    """A reservation would be rounded up to it, beyond what was planned."""
    with opened(directory) as fd:
        found = fsxattr.read(fd)
        flags = found.flags | fsxattr.FS_XFLAG_EXTSZINHERIT
        fsxattr.write(fd, replace(found, flags=flags, extent_size=16 * MIB))
    disk = directory / "disk"
    size = 20 * MIB
    provision(disk, *SPACE, "--format", format, "--size", size)
    assert size <= used(disk) < size + 2 * MIB
    row = applied(disk, "--strategy", "none", "--thin")
    assert row["mode"] == "staged"
    assert used(disk) < 2 * MIB


@ALL
def test_a_disk_in_an_append_only_directory_is_not_replaced(
    directory: Path, base: Path
) -> None:
    """Nor does it fall back: that is somebody's will, and no lack of support."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    before = disk.read_bytes()
    fallback = {"OS_ALLOCPOLICY__ON_UNSUPPORTED": "fallback"}
    subprocess.run(["chattr", "+a", directory], check=True)
    try:
        for more in ((), ("--dry-run",)):
            finished = allocpolicy("apply", disk, *PERFORMANCE, *more, **fallback)
            assert finished.status == 2
            assert "append-only" in finished.stderr
            assert len(finished.stderr.splitlines()) == 1
    finally:
        subprocess.run(["chattr", "-a", directory], check=True)
    assert disk.read_bytes() == before
    assert_only(directory, "disk")


@ALL
def test_a_rewrite_takes_nothing_on_from_the_directory(
    directory: Path, base: Path
) -> None:
    """Its default ACL would let others in; its flags are those of new files."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE, "--mode", "0640")
    before = attributes(disk)
    os.setxattr(directory, "system.posix_acl_default", ACL)
    subprocess.run(["chattr", "+d", directory], check=True)
    assert applied(disk, *PERFORMANCE)["mode"] == "staged"
    assert attributes(disk) == before


@pytest.mark.filesystems("xfs")
def test_a_project_that_the_directory_takes_no_file_of_is_told(
    directory: Path, base: Path
) -> None:
    """A directory whose project is handed down takes no link of another's file."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    before = disk.read_bytes(), attributes(disk)
    with opened(directory) as fd:
        found = fsxattr.read(fd)
        flags = found.flags | fsxattr.FS_XFLAG_PROJINHERIT
        fsxattr.write(fd, replace(found, flags=flags, project=77))
    finished = allocpolicy("apply", disk, *PERFORMANCE)
    assert finished.status == 4
    assert "project 77" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert (disk.read_bytes(), attributes(disk)) == before


@pytest.mark.filesystems("btrfs")
def test_a_compressed_disk_is_reserved_only_after_that_ends(
    directory: Path, base: Path
) -> None:
    """It keeps its compression, and what btrfs compresses can't be NOCOW."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    subprocess.run(["chattr", "+c", disk], check=True)
    finished = allocpolicy("apply", disk, "--strategy", "space")
    assert finished.status == 4
    assert "chattr -c" in finished.stderr
    subprocess.run(["chattr", "-c", disk], check=True)
    assert applied(disk, "--strategy", "space")["allocation"] == "reserved"


@pytest.mark.filesystems("btrfs")
@pytest.mark.parametrize("how", ["flag", "property"])
@pytest.mark.parametrize("policy", [SPACE, FALLOC])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_compressed_directorys_new_disks_are_reserved_all_the_same(
    directory: Path, format: str, policy: tuple[str, ...], how: str
) -> None:
    """What a new file has of its directory isn't anybody's will for the disk."""
    if how == "flag":
        subprocess.run(["chattr", "+c", directory], check=True)
    else:
        os.setxattr(directory, "btrfs.compression", b"zstd")
    disk = directory / "disk"
    choice = ("--size", SIZE, "--format", format)
    assert provision(disk, *choice, *policy)["observed"]["allocation"] == "reserved"
    # A disk that the directory's compression is on says what to do.
    provision(directory / "thin", *choice, "--strategy", "none")
    finished = allocpolicy("apply", directory / "thin", *SPACE)
    assert finished.status == 4
    assert "chattr -c" in finished.stderr
    subprocess.run(["chattr", "-c", directory / "thin"], check=True)
    assert applied(directory / "thin", *SPACE)["allocation"] == "reserved"


@ALL
def test_work_in_place_needs_no_writable_directory(directory: Path) -> None:
    disk = directory / "disk"
    provision(disk, "--size", SIZE, "--format", "raw", *SPACE)
    punch(disk)
    subprocess.run(["chattr", "+i", directory], check=True)
    for options in (["--dry-run"], []):
        assert applied(disk, *options)["mode"] == "in_place"
    assert used(disk) >= SIZE
    finished = allocpolicy("apply", disk, "--strategy", "none", "--thin")
    assert finished.status == 2
    assert "no permission to write in the directory" in finished.stderr


@ALL
def test_a_backing_files_format_matters_to_a_rewrite_only(
    directory: Path, base: Path
) -> None:
    """An audit agrees with that; a missing one is no disk's, whatever is recorded."""
    disk, below = directory / "disk", directory / "below"
    subprocess.run(["chattr", "+C", directory], capture_output=True, check=False)
    shutil.copy(base, below)
    backing = ("-b", below, "-F", "raw")
    images.qemu_img("create", "-q", "-f", "qcow2", *backing, disk, SIZE)
    with disk.open("r+b") as file:  # make its header extension one that QEMU ignores
        header = file.read(1024)
        file.seek(header.index(b"\xe2\x79\x2a\xca"))
        file.write(b"\x12\x34\x56\x78")
    finished = allocpolicy("apply", disk, "--format", "qcow2", *PERFORMANCE)
    assert finished.status == 2
    assert f"qemu-img rebase -u -b {below} -F FORMAT {disk}" in finished.stderr
    row = applied(disk, "--format", "qcow2", *SPACE)
    assert (row["mode"], row["allocation"]) == ("in_place", "reserved")
    audited = allocpolicy("audit", disk, "-f", "json")
    assert audited.status == 0
    assert "qemu-img rebase" in audited.document[0]["reason"]
    finished = allocpolicy("resize", disk, "+1M")
    assert finished.status == 2
    assert "qemu-img rebase" in finished.stderr
    below.unlink()
    finished = allocpolicy("apply", disk)
    assert finished.status == 2
    assert "No such file" in finished.stderr
    assert allocpolicy("audit", disk).status == 1


@ALL
def test_the_advice_for_a_backed_disk_that_drifted_leads_somewhere(
    directory: Path, base: Path
) -> None:
    disk = directory / "disk"
    backed = "allocpolicy:performance.layout=backed"
    options = ("--extra-spec", "allocpolicy:performance.cluster_size=128K")
    choice = (*PERFORMANCE, *options, "--extra-spec", backed)
    provision(disk, "--base", base, "--size", SIZE, *choice)
    images.qemu_io(disk, "discard 0 2M", format="qcow2", discard="unmap")
    before = content(disk, format="qcow2")
    for words in (("apply", disk), ("resize", disk, "+1M")):
        finished = allocpolicy(*words)
        assert finished.status == 2
        said = finished.stderr.strip().partition("standalone with allocpolicy ")[2]
        assert said == " ".join(["apply", str(disk), *PERFORMANCE, *options])
    assert allocpolicy(*said.split()).status == 0
    assert applied(disk)["mode"] == "nothing"
    assert content(disk, format="qcow2") == before
    assert allocpolicy("resize", disk, "+1M").status == 0


def test_attributes_that_only_root_sees_are_told() -> None:
    with ordinary_user.public_directory() as place:
        disk = place / "disk"
        owner = ("--owner", f"{ordinary_user.UID}:{ordinary_user.UID}")
        provision(disk, "--size", SIZE, *owner)
        os.setxattr(disk, "trusted.note", b"lost where nobody sees it")
        assert "trusted" not in applied(disk, *PERFORMANCE, "--dry-run")["reason"]
        arguments = ("apply", disk, *PERFORMANCE, "-f", "json")
        finished = subprocess.run(
            ordinary_user.command(*command(*arguments)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(XDG_RUNTIME_DIR=str(place)),
        )
    assert finished.returncode == 0, finished.stderr
    (row,) = json.loads(finished.stdout)
    assert row["mode"] == "staged"
    assert "trusted.* attributes, which take CAP_SYS_ADMIN" in row["reason"]


@ALL
def test_a_disk_in_use_is_reserved_but_not_rewritten(
    directory: Path, base: Path
) -> None:
    """Reserving is fallocate(2) in chunks, which a VM doesn't notice."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE, *FALLOC)
    before = content(disk, format="qcow2")
    punch(disk)
    with images.held_by_qemu(disk, format="qcow2"):
        finished = allocpolicy("apply", disk, *PERFORMANCE, "-f", "json")
        assert finished.status == 0
        row = applied(disk, *FALLOC)
        assert (row["mode"], row["verdict"]) == ("in_place", "meets")
        finished = allocpolicy("apply", disk, "--strategy", "none", "--thin")
        assert finished.status == 2
        assert "in use" in finished.stderr
        assert len(finished.stderr.splitlines()) == 1
        # Unwritten becomes written only where nobody else writes.
        spec = "allocpolicy:performance.data=full"
        finished = allocpolicy("apply", disk, *PERFORMANCE, "--extra-spec", spec)
        assert finished.status == 2
        assert "in use" in finished.stderr
    assert content(disk, format="qcow2") == before
    assert_only(directory, "disk")


@ALL
def test_a_disk_that_anybody_has_open_is_not_rewritten(
    directory: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU's lock bytes are not everything: a backup tool has none."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    with disk.open("rb"), monkeypatch.context() as patched:
        patched.setattr(hold, "_PATIENCE", 0.0)  # it stays open
        finished = allocpolicy("apply", disk, *PERFORMANCE)
    assert finished.status == 2
    assert "in use" in finished.stderr
    assert applied(disk, *PERFORMANCE)["mode"] == "staged"


class Opener:
    """A watcher that has another process open the disk while it is rewritten."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, description: str, /) -> Progress:
        def progress(*, done: int, total: int) -> None:
            if self.process is None:
                script = "import sys; print(len(open(sys.argv[1], 'rb').read()))"
                self.process = subprocess.Popen(
                    [sys.executable, "-c", script, self.disk], stdout=subprocess.PIPE
                )
                wait_for_breaker(self.disk)

        return progress


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give who opens a disk for a moment his time, on a crowded machine, too."""
    monkeypatch.setattr(hold, "_PATIENCE", PATIENCE)
    monkeypatch.setattr(again, "_LONG", PATIENCE)


def is_leased(disk: Path) -> bool:
    fd = os.open(disk, os.O_PATH)
    try:
        return lease.is_leased(fd)
    finally:
        os.close(fd)


def wait_for_breaker(disk: Path) -> None:
    """Wait until somebody waits in open(2) for the lease on a disk; proc_locks(5)."""
    file = f":{disk.stat().st_ino} "
    deadline = time.monotonic() + PATIENCE
    while not is_leased(disk) or not any(
        "LEASE" in line and "BREAKING" in line and file in line
        for line in Path("/proc/locks").read_text().splitlines()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@ALL
@pytest.mark.usefixtures("patient")
def test_a_rewrite_gives_way_to_whoever_opens_the_disk(
    directory: Path, base: Path
) -> None:
    """Once he has looked at it, the rewrite begins again; one change is recorded."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    before, guest = disk.read_bytes(), content(disk, format="qcow2")
    opener = Opener(disk)
    change = Change(disk=disk, extra_specs={"allocpolicy:strategy": "performance"})
    with logs.listening() as log, record_changes(policy=Policy(), command="test"):
        done = apply(change, policy=Policy(), watch=opener)
        outcomes = [one["OUTCOME"] for one in log.records()]
    assert opener.process is not None
    out, _ = opener.process.communicate()
    assert int(out) == len(before)
    assert done.mode == "staged"
    assert content(disk, format="qcow2") == guest
    assert_only(directory, "disk")
    assert outcomes == ["done"]


@ALL
def test_a_rewrite_gives_way_to_whoever_keeps_the_disk_open(
    directory: Path, base: Path
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    before, inode = disk.read_bytes(), disk.stat().st_ino
    change = Change(disk=disk, extra_specs={"allocpolicy:strategy": "performance"})
    with opening.Opener(disk) as opener:

        def watch(description: str, /) -> Progress:
            opener.open()
            return lambda *, done, total: None

        with pytest.raises(ImageError, match="in use"):
            apply(change, policy=Policy(), watch=watch)
        opener.write("")
    assert disk.read_bytes() == before
    assert disk.stat().st_ino == inode
    assert_only(directory, "disk")


@ALL
def test_a_hard_link_that_is_made_meanwhile_is_seen(
    directory: Path, base: Path
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    before = disk.read_bytes()

    def watch(description: str, /) -> Progress:
        def progress(*, done: int, total: int) -> None:
            if disk.stat().st_nlink == 1:
                os.link(disk, directory / "link")

        return progress

    change = Change(disk=disk, extra_specs={"allocpolicy:strategy": "performance"})
    with pytest.raises(ImageError, match="more than one hard link"):
        apply(change, policy=Policy(), watch=watch)
    assert disk.read_bytes() == before
    assert disk.samefile(directory / "link")
    assert_only(directory, "disk", "link")


@ALL
@pytest.mark.usefixtures("patient")
def test_filling_in_place_gives_way_to_whoever_opens_the_disk(
    directory: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is filled once he is done; what the guest reads is what it was."""
    write = zeroes._write

    def write_and_wait(fd: int, *, offset: int, end: int, advance: Advance) -> None:
        write(fd, offset=offset, end=end, advance=advance)
        if offset < end and opener.process is None:
            signal.pause()

    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE, *FALLOC)
    before, inode = content(disk, format="qcow2"), disk.stat().st_ino
    opener = Opener(disk)
    specs = {
        "allocpolicy:strategy": "performance",
        "allocpolicy:performance.data": "full",
    }
    monkeypatch.setattr(zeroes, "_write", write_and_wait)
    done = apply(Change(disk=disk, extra_specs=specs), policy=Policy(), watch=opener)
    monkeypatch.undo()
    assert opener.process is not None
    opener.process.communicate()
    assert disk.stat().st_ino == inode
    assert done.observed
    assert (done.mode, done.observed.allocation) == ("in_place", "written")
    assert content(disk, format="qcow2") == before


def set_bit(disk: Path, *, bit: int) -> None:
    with disk.open("r+b") as file:
        file.seek(72)
        (value,) = struct.unpack(">Q", file.read(8))
        file.seek(72)
        file.write(struct.pack(">Q", value | 1 << bit))


def encrypt(disk: Path) -> None:
    # By hand: on a busy machine QEMU 7.2 is "unable to get accurate CPU usage".
    with disk.open("r+b") as file:
        file.seek(32)
        file.write(struct.pack(">I", 2))


def test_nothing_that_a_rewrite_would_lose_is_rewritten(tmp_path: Path) -> None:
    """Bitmaps, snapshots, LUKS, external data, dirty and corrupt images, links."""
    kinds: dict[str, Callable[[Path], object]] = {
        "bitmaps": lambda disk: images.qemu_img("bitmap", "--add", disk, "b"),
        "internal snapshot": lambda disk: images.qemu_img("snapshot", "-c", "s", disk),
        "encryption (LUKS)": encrypt,
        "dirty": lambda disk: set_bit(disk, bit=0),
        "corrupt": lambda disk: set_bit(disk, bit=1),
        "hard link": lambda disk: os.link(disk, tmp_path / "another"),
    }
    for word, change in kinds.items():
        disk = tmp_path / "disk"
        images.qemu_img("create", "-q", "-f", "qcow2", disk, SIZE)
        change(disk)
        before = disk.read_bytes()
        finished = allocpolicy("apply", disk, "--format", "qcow2", *PERFORMANCE)
        assert finished.status == 2, word
        assert word in finished.stderr
        assert len(finished.stderr.splitlines()) == 1
        assert disk.read_bytes() == before
        disk.unlink()
    disk = tmp_path / "disk"
    options = f"data_file={tmp_path / 'external'}"
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", options, disk, SIZE)
    finished = allocpolicy("apply", disk, "--format", "qcow2", *PERFORMANCE)
    assert finished.status == 2
    assert "external data file" in finished.stderr


def test_a_corrupt_disk_is_not_guaranteed(tmp_path: Path) -> None:
    """It may have all of its storage: QEMU doesn't open it for writing."""
    disk = tmp_path / "disk"
    provision(disk, "--size", SIZE, *SPACE)
    set_bit(disk, bit=1)
    finished = allocpolicy("inspect", disk, "-f", "json")
    observed = finished.document["observed"]
    assert (observed["allocation"], observed["guaranteed"]) == ("reserved", False)
    assert "qemu-img check -r all" in observed["exception"]


@pytest.mark.parametrize("verb", ["apply", "resize"])
@pytest.mark.parametrize("strategy", ["none", "space", "performance"])
def test_a_disk_that_lost_its_backing_file_is_refused(
    tmp_path: Path, base: Path, strategy: str, verb: str
) -> None:
    """Audit finds that it has drifted, and nothing that is done here mends that."""
    below, disk = tmp_path / "below", tmp_path / "disk"
    images.qemu_img("convert", "-f", "raw", "-O", "qcow2", base, below)
    provision(disk, "--base", below, "--size", SIZE)
    below.unlink()
    before = disk.read_bytes()
    size = [2 * SIZE] if verb == "resize" else []
    finished = allocpolicy(verb, disk, *size, "--strategy", strategy)
    assert finished.status == 2
    assert str(below) in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert disk.read_bytes() == before
    assert allocpolicy("audit", disk).status == 1


def test_a_disk_that_no_strategy_can_rewrite_is_named(tmp_path: Path) -> None:
    """A qcow2 of no size has nothing to map, which a plan's numbers refuse."""
    disk = tmp_path / "disk"
    images.qemu_img("create", "-q", "-f", "qcow2", disk, 0)
    finished = allocpolicy("apply", disk, "--format", "qcow2", *PERFORMANCE)
    assert finished.status == 2
    assert str(disk) in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: path.mkdir(), "directory"),
        (os.mkfifo, "special file"),
        (lambda path: None, "No such file"),
        (lambda path: path.symlink_to("/dev/loop0"), "block device"),
    ],
)
def test_only_regular_files_are_disks(
    tmp_path: Path, make: Callable[[Path], object], word: str
) -> None:
    make(tmp_path / "disk")
    finished = allocpolicy(
        "apply", tmp_path / "disk", "--format", "raw", "--strategy", "space"
    )
    assert finished.status == 2
    assert word in finished.stderr


def test_a_disk_without_a_stamp_needs_a_format_and_a_policy(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(MIB)
    finished = allocpolicy("apply", disk)
    assert finished.status == 2
    assert "--disk-format" in finished.stderr
    finished = allocpolicy("apply", disk, "--format", "raw")
    assert finished.status == 2
    assert "--strategy" in finished.stderr


@ALL
def test_the_first_failure_is_the_exit_status_and_the_others_are_done(
    directory: Path, base: Path
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    finished = allocpolicy(
        *("apply", directory / "missing", disk, *PERFORMANCE, "-f", "json")
    )
    assert finished.status == 2
    assert len(finished.stderr.splitlines()) == 1
    assert [(row["outcome"], row["mode"]) for row in finished.document] == [
        ("failed", None),
        ("changed", "staged"),
    ]


def test_every_disk_has_a_row_and_every_failure_is_told(tmp_path: Path) -> None:
    """In every order, also as data; the status is that of the first failure."""
    disks = [tmp_path / name for name in ("gone", "unknown", "disk", "device")]
    disks[1].write_bytes(bytes(MIB))
    provision(disks[2], "--size", "1M")
    disks[3].symlink_to("/dev/null")
    for order in (disks, disks[::-1]):
        finished = allocpolicy("apply", *order, "-f", "json")
        assert finished.status == 2
        assert len(finished.stderr.splitlines()) == 3
        rows = {row["disk"]: row for row in finished.document}
        assert list(rows) == [str(disk) for disk in order]
        for disk in (disks[0], disks[1], disks[3]):
            row = rows[str(disk)]
            assert (row["outcome"], row["mode"]) == ("failed", None)
            assert f"{row['reason']}\n" in finished.stderr
        assert rows[str(disks[2])]["outcome"] == "unchanged"


@ALL
def test_a_dry_run_shows_the_plan_and_touches_nothing(
    directory: Path, base: Path
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    before = disk.read_bytes(), attributes(disk), disk.stat().st_mtime_ns
    row = applied(disk, *PERFORMANCE, "--dry-run")
    assert (row["outcome"], row["mode"]) == ("planned", "staged")
    assert any("all mapped" in step for step in row["steps"])
    assert (disk.read_bytes(), attributes(disk), disk.stat().st_mtime_ns) == before


@pytest.mark.filesystems("ext4", "xfs")
def test_a_dry_run_shows_a_plan_in_place_and_that_nothing_is_to_be_done(
    directory: Path,
) -> None:
    disk = directory / "disk"
    provision(disk, "--size", SIZE, "--format", "raw")
    before = attributes(disk), disk.stat().st_ctime_ns
    assert applied(disk, *SPACE, "--dry-run")["mode"] == "in_place"
    assert applied(disk, "--dry-run")["mode"] == "nothing"
    assert (attributes(disk), disk.stat().st_ctime_ns) == before


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_lack_of_room_leaves_the_disk_as_it_was(
    fresh_filesystem: Callable[..., Path], base: Path, kind: str
) -> None:
    mount_point = fresh_filesystem(kind)
    disk = mount_point / "disk"
    provision(disk, "--base", base, "--size", "160M")
    write_as_guest(disk, format="qcow2")
    before = content(disk, format="qcow2")
    leave_free(mount_point, 80 * MIB)
    free = available(mount_point)
    for policy in (("--strategy", "space"), FALLOC):
        finished = allocpolicy("apply", disk, *policy)
        assert finished.status == 3, finished.stderr
        assert "needed" in finished.stderr
    assert content(disk, format="qcow2") == before
    assert free - available(mount_point) < 2 * MIB


def test_no_room_for_the_stamp_is_a_lack_of_space(
    fresh_filesystem: Callable[..., Path],
) -> None:
    """A disk that needs nothing else, and a filesystem without one free block."""
    mount_point = fresh_filesystem("ext4", mkfs_options=("-m", "0", "-I", "128"))
    disk = mount_point / "disk"
    disk.write_bytes(b"data" * MIB)
    leave_free(mount_point, 0)
    finished = allocpolicy("apply", disk, "--format", "raw", "--strategy", "none")
    assert finished.status == 3, finished.stderr
    assert "not enough space" in finished.stderr
    assert disk.read_bytes() == b"data" * MIB


def test_what_a_killed_rewrite_left_is_removed_though_nothing_is_to_be_done(
    tmp_path: Path,
) -> None:
    """A kill after the exchange: the disk is as it should be, the old one beside it."""
    disk = tmp_path / "disk"
    provision(disk, "--size", SIZE, *PERFORMANCE)
    left = tmp_path / ".allocpolicy-0123456789abcdef.tmp"
    left.write_bytes(b"the old disk")
    assert applied(disk, "--dry-run")["mode"] == "nothing"
    assert left.exists()
    assert applied(disk)["mode"] == "nothing"
    assert_only(tmp_path, "disk")


@ALL
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_whatever_ends_it_the_disk_is_whole(
    directory: Path, base: Path, ending: signal.Signals
) -> None:
    """The old one or the new one, and one more name at most, which the next removes."""
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    write_as_guest(disk, format="qcow2")
    before = content(disk, format="qcow2")
    rewritten = 0
    for round_number in range(12):
        process = subprocess.Popen(
            command("apply", disk, *FALLOC),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        time.sleep(0.15 + 0.04 * round_number)
        process.send_signal(ending)
        process.wait()
        left = set(os.listdir(directory)) - {"disk"}
        assert len(left) <= (1 if ending == signal.SIGKILL else 0)
        assert content(disk, format="qcow2") == before
        standalone = "backing-filename" not in images.info(disk, format="qcow2")
        rewritten += standalone
        if standalone:
            disk.unlink()
            provision(disk, "--base", base, "--size", SIZE)
            write_as_guest(disk, format="qcow2")
    applied(disk, *FALLOC)
    assert_only(directory, "disk")
    assert content(disk, format="qcow2") == before


@ALL
@pytest.mark.usefixtures("patient")
def test_of_many_at_once_one_rewrites_and_the_others_find_it_done(
    directory: Path, base: Path, tmp_path: Path
) -> None:
    disk = directory / "disk"
    provision(disk, "--base", base, "--size", SIZE)
    before = content(disk, format="qcow2")
    told = at_once(
        *[("apply", disk, *PERFORMANCE, "-f", "json")] * 8,
        OS_ALLOCPOLICY__LOCK_PATH=str(tmp_path / "locks"),
    )
    assert [one.status for one in told] == [0] * 8, told
    modes = sorted(one.document[0]["mode"] for one in told)
    assert modes == ["nothing"] * 7 + ["staged"]
    # One lock for the filesystem, and none for every disk that ever was.
    assert len(os.listdir(tmp_path / "locks")) <= 1
    assert content(disk, format="qcow2") == before
    assert_only(directory, "disk")


def test_without_a_lease_nothing_is_rewritten() -> None:
    """Only the owner and root can have one; elsewhere nobody can (NFS)."""
    with ordinary_user.public_directory() as place:
        disk = place / "disk"
        provision(disk, "--size", MIB, "--mode", "0666", "--format", "raw")
        arguments = ("apply", disk, "--strategy", "none", "--thin")
        with disk.open("r+b") as file:
            file.write(os.urandom(MIB))  # written: there is something to give back
        finished = subprocess.run(
            ordinary_user.command(*command(*arguments)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(XDG_RUNTIME_DIR=str(place)),
        )
    assert finished.returncode == 4
    assert "a lease on another user's file takes CAP_LEASE" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.filesystems("ext4")
@pytest.mark.parametrize("attribute", ["i", "a"])
def test_a_disk_that_nobody_may_write_to_is_told_as_such(
    directory: Path, attribute: str
) -> None:
    """It is no lack of a capability, which root has."""
    disk = directory / "disk"
    provision(disk, "--size", "1M", "--strategy", "none")
    subprocess.run(["chattr", f"+{attribute}", disk], check=True)
    try:
        finished = allocpolicy("apply", disk, "--strategy", "space")
    finally:
        subprocess.run(["chattr", f"-{attribute}", disk], check=True)
    assert (finished.status, "chattr -ia" in finished.stderr) == (2, True)
    assert applied(disk, "--strategy", "space")["allocation"] == "reserved"
