"""Prepared disks in a cache: nobody needs them, and nobody loses anything by them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.image_cache import (
    home,
    location,
    origin,
    prepared_entries,
    prepared_record,
)
from allocpolicy.image_cache.origin import Image
from allocpolicy.image_cache.prepared_record import Record
from allocpolicy.storage import unchanged
from tests.harness import images, ordinary_user
from tests.harness.cli import allocpolicy, command, environment, provision
from tests.harness.images import MIB, qemu_img

REMOVED, KEPT, PLANNED = "removed", "kept", "planned"


@pytest.fixture
def cache(directory: Path) -> Path:
    made = directory / "_base"
    made.mkdir()
    return made


@pytest.fixture
def base(tmp_path: Path) -> Path:
    made = tmp_path / "base.raw"
    made.write_bytes(os.urandom(MIB))
    return made


def prepared(
    cache: Path, number: int, *bases: Path, size: int = 2 * MIB, format: str = "qcow2"
) -> Path:
    """Return a finished disk that says what it was made from, as one is prepared."""
    path = cache / location.prepared_name(f"{number:064x}", format=format)
    qemu_img("create", "-q", "-f", format, path, size)
    with path.open("r+b") as file:
        made_from = [Image(path=one, identity=identity(one)) for one in bases]
        origin.record(file.fileno(), made_from)
    path.chmod(0o444)
    believed(path)
    return path


def believed(path: Path, *, used: float | None = None) -> None:
    """Record what it is, as of one that was checked; and when it was used last."""
    with (
        home.at(path.parent) as place,
        home.opened(place) as cache,
        path.open("rb") as file,
    ):
        assert cache is not None
        record = Record(file=unchanged.state(file.fileno()), virtual_size=0, steps=())
        prepared_record.write(cache, path.name, record)
    if used is not None:
        os.utime(path.parent / location.PREPARED / path.name, (used, used))


def identity(path: Path) -> tuple[int, ...]:
    return origin.identity(os.stat(path))


def rows(action: str, *arguments: object, **variables: str) -> list[dict[str, object]]:
    finished = allocpolicy("cache", action, *arguments, "-f", "json", **variables)
    assert finished.status == 0, finished.stderr
    found: list[dict[str, object]] = finished.document
    return found


def prune(cache: Path, *arguments: object, **variables: str) -> dict[str, object]:
    """Prune, and return what became of each entry, by its name."""
    found = rows("prune", cache, *arguments, **variables)
    return {Path(str(row["entry"])).name: row["outcome"] for row in found}


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
class TestList:
    """A prepared disk is told as what it is."""

    def test_both_formats(self, cache: Path, base: Path) -> None:
        one = prepared(cache, 1, base)
        two = prepared(cache, 2, format="raw")
        first, second = rows("list", cache)
        assert (first["entry"], second["entry"]) == (str(one), str(two))
        for row in (first, second):
            assert row["kind"] == "prepared"
            assert row["virtual_size"] == 2 * MIB
            assert row["source_format"] is row["outdated"] is None
            assert row["used_by"] == []
            assert str(row["last_used"]).endswith("Z")
        assert (first["format"], second["format"]) == ("qcow2", "raw")

    def test_people_see_both_kinds(self, cache: Path, base: Path) -> None:
        vmdk = images.convert(base, format="vmdk")
        provision(cache.parent / "disk", "--base", vmdk)
        prepared(cache, 1, base)
        finished = allocpolicy("cache", "list", cache.parent)
        heading, *lines = finished.stdout.splitlines()
        assert heading.split() == ["SIZE", "TAKEN", "KIND", "FORMAT", "USERS", "SOURCE"]
        assert [line.split()[2:5] for line in lines] == [
            ["converted", "vmdk", "1"],
            ["prepared", "qcow2", "-"],
        ]
        assert "1 converted image, " in finished.stderr
        assert " and 1 prepared disk, " in finished.stderr

    def test_a_base_that_changed_is_named(self, cache: Path, base: Path) -> None:
        prepared(cache, 1, base)
        with base.open("ab") as file:
            file.write(b"more")
        (row,) = rows("list", cache)
        assert row["outdated"] == f"{base} is gone, or has changed"


@pytest.mark.filesystems("xfs")
class TestPrune:
    """What is of no use goes; what is of use stays, unless it is asked for."""

    def test_only_what_is_outdated_goes_by_itself(
        self, cache: Path, base: Path
    ) -> None:
        other = base.with_name("other")
        shutil.copy(base, other)
        current, blank = prepared(cache, 1, base), prepared(cache, 2)
        changed, below = prepared(cache, 3, other), prepared(cache, 4, base, other)
        silent = prepared(cache, 5)
        os.removexattr(silent, origin.XATTR)
        other.unlink()
        gone = {changed.name, below.name, silent.name}
        expected = dict.fromkeys(gone, PLANNED) | {current.name: KEPT, blank.name: KEPT}
        assert prune(cache, "--dry-run") == expected
        assert all(path.exists() for path in (current, blank, changed, below, silent))
        removed = dict.fromkeys(gone, REMOVED)
        assert prune(cache) == removed | {current.name: KEPT, blank.name: KEPT}
        assert self.left(cache) == {current.name, blank.name}
        finished = allocpolicy("cache", "prune", cache)
        assert (
            "--prepared removes prepared disks that are of use, too" in finished.stderr
        )
        assert set(prune(cache, "--prepared").values()) == {REMOVED}
        assert self.left(cache) == set()

    @staticmethod
    def left(cache: Path) -> set[str]:
        """Return the prepared disks that are left; there is a record of each."""
        names = {path.name for path in cache.iterdir()} - {location.PREPARED}
        assert {path.name for path in (cache / location.PREPARED).iterdir()} == names
        return names

    def test_the_record_of_one_that_was_deleted_goes(
        self, cache: Path, base: Path
    ) -> None:
        deleted, kept = prepared(cache, 1, base), prepared(cache, 2)
        deleted.unlink()
        assert prune(cache) == {kept.name: KEPT}
        assert self.left(cache) == {kept.name}

    @pytest.mark.parametrize("change", ["content", "attribute", "another", "record"])
    def test_what_isnt_what_was_checked_goes(
        self, cache: Path, base: Path, change: str
    ) -> None:
        """As it is never cloned; whoever changed it, and in whatever way."""
        disk, kept = prepared(cache, 1, base), prepared(cache, 2, base)
        if change == "content":
            with disk.open("r+b") as file:
                file.write(b"x")
        if change == "attribute":
            os.setxattr(disk, "user.mine", b"x")
        if change == "another":
            shutil.copy2(disk, cache / "copy")
            (cache / "copy").replace(disk)
        if change == "record":
            (cache / location.PREPARED / disk.name).write_text("{}")
        said = {row["entry"]: row["outdated"] for row in rows("list", cache)}
        assert said == {
            str(disk): "it isn't what was checked when it was made",
            str(kept): None,
        }
        assert prune(cache) == {disk.name: REMOVED, kept.name: KEPT}
        assert self.left(cache) == {kept.name}

    def test_where_it_is_off_none_is_of_use(self, cache: Path, base: Path) -> None:
        prepared(cache, 1, base)
        off = {"OS_ALLOCPOLICY__PREPARED_DISKS": "off"}
        assert set(prune(cache, **off).values()) == {REMOVED}

    @pytest.mark.parametrize("held", ["locked", "open", "overlay"])
    def test_what_somebody_uses_stays(self, cache: Path, base: Path, held: str) -> None:
        """Also as the backing file of an overlay, which nobody should make."""
        disk = prepared(cache, 1, base)
        base.unlink()
        with disk.open("rb") as file:
            if held == "overlay":
                file.close()
                over = cache.parent / "overlay"
                qemu_img("create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", over)
            if held == "locked":
                fcntl.flock(file, fcntl.LOCK_SH)
            assert prune(cache, "--prepared") == {disk.name: KEPT}
            assert disk.exists()

    def test_what_only_looks_like_one_is_left(self, cache: Path, base: Path) -> None:
        """Links, directories and FIFOs are no prepared disks; nor are other names."""
        target = cache / "mine"
        target.write_text("mine")
        names = [
            location.prepared_name(f"{number:064x}", format=format)
            for number in range(2)
            for format in ("raw", "qcow2")
        ]
        (cache / names[0]).symlink_to(target)
        (cache / names[1]).mkdir()
        os.mkfifo(cache / names[2])
        (cache / names[3]).symlink_to(cache / names[3])
        others = ("x.prepared.raw", f"{'0' * 64}.prepared", f"{'A' * 64}.prepared.raw")
        for name in others:
            (cache / name).write_text("mine")
        assert rows("list", cache) == []
        assert prune(cache, "--prepared") == {}
        assert {one.name for one in cache.iterdir()} == {"mine", *names, *others}

    @pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QFI\xfb" * 4096, b"x" * 99])
    def test_garbage_goes(self, cache: Path, content: bytes) -> None:
        disk = cache / location.prepared_name("0" * 64, format="qcow2")
        disk.write_bytes(content)
        (row,) = rows("list", cache)
        assert row["virtual_size"] is None
        assert row["outdated"] == "it doesn't say what it was made from"
        assert prune(cache) == {disk.name: REMOVED}

    def test_a_file_that_a_user_may_not_read_stays(self) -> None:
        with ordinary_user.public_directory() as public:
            cache = public / "_base"
            cache.mkdir(mode=0o777)
            cache.chmod(0o777)
            disk = prepared(cache, 1)
            disk.chmod(0o400)
            pruning = command("cache", "prune", cache, "--prepared", "-f", "json")
            finished = subprocess.run(
                ordinary_user.command(*pruning),
                capture_output=True,
                text=True,
                check=False,
                env=environment(
                    HOME="/nonexistent",
                    OS_ALLOCPOLICY__LOCK_PATH=str(public / "locks"),
                ),
            )
            assert finished.returncode == 0, finished.stderr
            assert disk.exists()


Room = Callable[..., bool]


@pytest.fixture
def room(cache: Path, tmp_path: Path) -> Room:
    """Return whether there is room for a prepared disk of 4 MiB within a limit."""

    def made(*, most: int | None, needed: int = 4 * MIB) -> bool:
        with home.at(cache) as place, home.opened(place) as opened:
            assert opened is not None
            found = prepared_entries.room(
                opened,
                needed=needed,
                most=most,
                lock_path=tmp_path / "locks",
                roots=[cache.parent],
            )
            with found as fits:
                return fits

    return made


@pytest.mark.filesystems("xfs", "btrfs")
class TestRoom:
    """No more storage than the operator's limit, and what is used least goes first."""

    @staticmethod
    def data(path: Path, count: int) -> Path:
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(os.urandom(count * MIB))
            os.fsync(file.fileno())
        path.chmod(0o444)
        return path

    def raws(self, cache: Path, *numbers: int) -> list[Path]:
        """Return prepared disks of 4 MiB each, the first used longest ago."""
        size = 4 * MIB
        found = []
        for number in numbers:
            disk = self.data(prepared(cache, number, size=size, format="raw"), 4)
            believed(disk, used=1000 * number)
            found.append(disk)
        return found

    def test_the_least_recently_used_goes(self, cache: Path, room: Room) -> None:
        first, second, third = self.raws(cache, 1, 2, 3)
        assert room(most=None)
        assert room(most=64 * MIB)
        assert first.exists()
        assert room(most=13 * MIB)
        assert [one.exists() for one in (first, second, third)] == [False, True, True]
        assert not room(most=3 * MIB), "it has none itself"
        assert second.exists()

    def test_what_a_job_holds_stays(self, cache: Path, room: Room) -> None:
        first, second = self.raws(cache, 1, 2)
        with first.open("rb") as job:
            fcntl.flock(job, fcntl.LOCK_SH)
            assert room(most=9 * MIB)
            assert [first.exists(), second.exists()] == [True, False]
            assert not room(most=5 * MIB)
        assert room(most=5 * MIB)
        assert not first.exists()

    def test_what_is_outdated_goes_first(
        self, cache: Path, room: Room, base: Path
    ) -> None:
        first, second = self.raws(cache, 1, 2)
        with second.open("rb") as file:
            elsewhere = Image(path=base, identity=(0,))
            origin.record(file.fileno(), [elsewhere])
        assert room(most=9 * MIB)
        assert [first.exists(), second.exists()] == [True, False]

    def test_shared_storage_counts_once(self, cache: Path, room: Room) -> None:
        """Two that share the packed data of their base take it once."""
        (first,) = self.raws(cache, 1)
        clone = prepared(cache, 2, size=4 * MIB, format="raw")
        clone.unlink()
        reflink = ["cp", "--reflink=always", str(first), str(clone)]
        subprocess.run(reflink, check=True)
        os.sync()
        assert room(most=9 * MIB)
        assert first.exists()
        assert clone.exists()
        assert room(most=5 * MIB)
        assert not first.exists()
        assert not clone.exists()
