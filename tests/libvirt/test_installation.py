"""Putting the hook into libvirt's directory, and taking it out again."""

from __future__ import annotations

import dataclasses
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.errors import InvalidRequest, NotEnoughSpace
from allocpolicy.libvirt import installation, stub
from allocpolicy.libvirt.installation import NAME, Outcome
from allocpolicy.libvirt.stub import OnMissing, Settings
from tests.conftest import FreshFilesystem

SETTINGS = Settings(
    version="1",
    interpreter="/usr/bin/python3",
    stdlib="/usr/lib/python3/os.py",
    package="/usr/lib/python3/allocpolicy/__init__.py",
    paths=("/usr/lib/python3",),
    site=False,
    on_missing=OnMissing.PASS,
)
NEWER = dataclasses.replace(SETTINGS, version="2")


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """Return a directory for hooks that isn't there yet, in one that is libvirt's."""
    libvirt = tmp_path / "libvirt"
    libvirt.mkdir(mode=0o755)
    return libvirt / "hooks" / "qemu.d"


def content_of(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory, with its content."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_directory_is_made_and_the_file_is_one_that_libvirt_runs(
    hooks: Path,
) -> None:
    """Whatever the umask."""
    before = os.umask(0o077)
    try:
        assert installation.install(hooks, SETTINGS) is Outcome.INSTALLED
    finally:
        os.umask(before)
    for path in (hooks.parent, hooks, hooks / NAME):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert content_of(hooks.parent) == {f"qemu.d/{NAME}": stub.content(SETTINGS)}


def changed(path: Path) -> tuple[int, int]:
    """Return which file it is, and when anything of it was changed."""
    status = path.stat()
    return status.st_ino, status.st_ctime_ns


def test_installing_again_changes_what_is_not_as_it_must_be(hooks: Path) -> None:
    """And nothing else: the file stays the same file."""
    installation.install(hooks, SETTINGS)
    first = changed(hooks / NAME)
    assert installation.install(hooks, SETTINGS) is Outcome.UNCHANGED
    assert changed(hooks / NAME) == first
    (hooks / NAME).chmod(0o644)
    assert installation.install(hooks, SETTINGS) is Outcome.REPLACED
    assert os.access(hooks / NAME, os.X_OK)
    (hooks / NAME).write_bytes(stub.content(SETTINGS) + b"exit 1\n")
    assert installation.install(hooks, NEWER) is Outcome.REPLACED
    assert (hooks / NAME).read_bytes() == stub.content(NEWER)


def test_other_hooks_are_left_alone(hooks: Path) -> None:
    """Those beside it, and the one that CloudStack has above."""
    hooks.mkdir(parents=True)
    others = {"qemu.d/10-other": b"one", "qemu": b"two", "network": b"three"}
    for name, content in others.items():
        (hooks.parent / name).write_bytes(content)
    before = [changed(hooks.parent / name) for name in others]
    installation.install(hooks, SETTINGS)
    installation.install(hooks, NEWER)
    assert installation.uninstall(hooks) is Outcome.REMOVED
    assert content_of(hooks.parent) == others
    assert [changed(hooks.parent / name) for name in others] == before


def test_what_is_not_there_is_removed_already(hooks: Path) -> None:
    """With or without the directory."""
    assert installation.uninstall(hooks) is Outcome.UNCHANGED
    hooks.mkdir(parents=True)
    assert installation.uninstall(hooks) is Outcome.UNCHANGED
    assert installation.read(hooks) is None


def as_file(path: Path) -> None:
    path.write_text("#!/bin/sh\n# another program's\n")


def as_link(path: Path) -> None:
    target = path.parent.parent / "target"
    target.write_bytes(stub.content(SETTINGS))
    path.symlink_to(target)


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)  # which is short enough


OF_OTHERS = [as_file, as_link, as_socket, Path.mkdir, os.mkfifo, Path.touch]


@pytest.mark.parametrize("make", OF_OTHERS)
def test_what_others_named_so_is_neither_replaced_nor_removed(
    hooks: Path, make: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is."""
    hooks.mkdir(parents=True)
    monkeypatch.chdir(hooks)
    make(hooks / NAME)
    before = (hooks / NAME).lstat()
    with pytest.raises(InvalidRequest):
        installation.install(hooks, SETTINGS)
    with pytest.raises(InvalidRequest):
        installation.uninstall(hooks)
    after = (hooks / NAME).lstat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def others_may_write(path: Path) -> None:
    path.chmod(0o777)


def group_may_write(path: Path) -> None:
    path.chmod(0o775)


def anybody_may_make_files(path: Path) -> None:
    path.chmod(0o1777)


def belongs_to_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a directory away takes root")
    os.chown(path, 12345, 12345)


UNTRUSTED = [others_may_write, group_may_write, belongs_to_another]


@pytest.mark.parametrize("spoil", [*UNTRUSTED, anybody_may_make_files])
def test_a_directory_that_others_may_change_gets_no_hook(
    hooks: Path, spoil: Callable[[Path], None]
) -> None:
    """What is in it is run by root."""
    hooks.mkdir(parents=True)
    spoil(hooks)
    with pytest.raises(InvalidRequest, match="as root"):
        installation.install(hooks, SETTINGS)
    assert content_of(hooks) == {}


@pytest.mark.parametrize("spoil", UNTRUSTED)
def test_nor_does_one_on_the_way_to_it(
    hooks: Path, spoil: Callable[[Path], None]
) -> None:
    """Who may write there, may put another directory in its place."""
    hooks.mkdir(parents=True)
    spoil(hooks.parent.parent)
    with pytest.raises(InvalidRequest, match="as root"):
        installation.install(hooks, SETTINGS)


@pytest.mark.parametrize("spoil", UNTRUSTED)
def test_nothing_is_run_from_where_others_may_write(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Python, its modules, and the directories above them, links followed."""
    place = tmp_path / "place"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").touch()
    link = tmp_path / "link"
    link.symlink_to(place / "bin" / "python")
    installation.refuse_distrusted(link)
    spoil(place)
    with pytest.raises(InvalidRequest, match="as root"):
        installation.refuse_distrusted(link)


def test_a_link_of_others_in_a_directory_for_all_is_refused(tmp_path: Path) -> None:
    """They can point it elsewhere; ours they can't rename there."""
    if os.geteuid() != 0:
        pytest.skip("giving a link away takes root")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "python").symlink_to(sys.executable)
    installation.refuse_distrusted(shared / "python")
    os.chown(shared / "python", 12345, 12345, follow_symlinks=False)
    with pytest.raises(InvalidRequest, match="as root"):
        installation.refuse_distrusted(shared / "python")


def test_without_libvirt_there_is_nothing_to_install_into(tmp_path: Path) -> None:
    """Its own directory isn't made."""
    with pytest.raises(InvalidRequest):
        installation.install(tmp_path / "libvirt" / "hooks" / "qemu.d", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_libvirt_sees_one_whole_hook_at_every_moment(hooks: Path) -> None:
    """It runs every file of the directory: a temporary one would run, too."""
    installation.install(hooks, SETTINGS)
    whole = {stub.content(SETTINGS), stub.content(NEWER)}
    replacing = threading.Thread(
        target=lambda: [
            installation.install(hooks, NEWER if number % 2 else SETTINGS)
            for number in range(200)
        ]
    )
    replacing.start()
    while replacing.is_alive():
        assert os.listdir(hooks) == [NAME]
        assert (hooks / NAME).read_bytes() in whole
        assert os.access(hooks / NAME, os.X_OK)
    replacing.join()
    assert content_of(hooks.parent).keys() == {f"qemu.d/{NAME}"}


def test_a_directory_that_is_a_filesystem_of_its_own(
    fresh_filesystem: FreshFilesystem,
) -> None:
    """No name can be moved into it from the directory above."""
    hooks = fresh_filesystem("ext4")
    assert installation.install(hooks, SETTINGS) is Outcome.INSTALLED
    assert installation.install(hooks, NEWER) is Outcome.REPLACED
    assert (hooks / NAME).read_bytes() == stub.content(NEWER)
    assert set(os.listdir(hooks)) <= {NAME, "lost+found"}


def test_without_space_the_hook_stays_what_it_was(
    fresh_filesystem: FreshFilesystem,
) -> None:
    """A lack of space is told as such, with nothing left behind."""
    place = fresh_filesystem("ext4", mkfs_options=("-m", "0"))
    hooks = place / "hooks" / "qemu.d"
    hooks.mkdir(parents=True)
    installation.install(hooks, SETTINGS)
    with (place / "filler").open("wb", buffering=0) as filler:
        while (free := os.statvfs(place)).f_bavail:
            size = os.fstat(filler.fileno()).st_size
            most = max(1, free.f_bavail // 2) * free.f_bsize
            os.posix_fallocate(filler.fileno(), size, most)
    before = content_of(place / "hooks")
    with pytest.raises(NotEnoughSpace):
        installation.install(hooks, NEWER)
    assert content_of(place / "hooks") == before


@pytest.mark.parametrize("name", [".", "qemu.d"])
def test_a_read_only_filesystem_is_no_fault_of_the_storage(
    fresh_filesystem: FreshFilesystem, name: str
) -> None:
    """The kernel's log has nothing about it."""
    place = fresh_filesystem("ext4")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    with pytest.raises(InvalidRequest, match=r"(?i)read-only"):
        installation.install(place / name, SETTINGS)


def test_a_current_directory_that_is_gone_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a path says itself where it is."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    installation.refuse_distrusted(tmp_path)


KILLED = """
import sys
from pathlib import Path
from allocpolicy.libvirt import installation, stub
directory, names = Path(sys.argv[1]), sys.argv[2:]
found = [stub.settings_of(Path(name).read_bytes()) for name in names]
print(flush=True)
while True:
    for settings in found:
        installation.install(directory, settings)
"""


def test_whatever_ends_an_installation_one_whole_hook_is_there(
    hooks: Path, tmp_path: Path
) -> None:
    """And the next one leaves nothing else."""
    installation.install(hooks, SETTINGS)
    files = [tmp_path / "one", tmp_path / "two"]
    for path, settings in zip(files, (NEWER, SETTINGS), strict=True):
        path.write_bytes(stub.content(settings))
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, hooks, *files], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert process.poll() is None
        process.kill()
    assert os.listdir(hooks) == [NAME]
    assert (hooks / NAME).read_bytes() in [path.read_bytes() for path in files]
    assert os.access(hooks / NAME, os.X_OK)
    installation.install(hooks, NEWER)
    installation.install(hooks, SETTINGS)
    assert content_of(hooks.parent).keys() == {f"qemu.d/{NAME}"}
