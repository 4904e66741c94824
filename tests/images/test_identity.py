"""Nobody writes to an image unnoticed while it is used, whatever dates they set."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.images import base_image, identity
from allocpolicy.images.base_image import SourceImage
from allocpolicy.storage import lease, read_lease
from tests.harness import filesystems, images, ordinary_user
from tests.harness.cli import allocpolicy, command, environment
from tests.harness.images import MIB

SHARED_AND_WRITABLE = (mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)


@pytest.fixture
def base(directory: Path) -> Path:
    base = directory / "base"
    base.write_bytes(b"x" * MIB)
    return base


@contextmanager
def used(base: Path) -> Iterator[SourceImage]:
    with base_image.open_source(base, declared="raw") as source:
        yield source


@contextmanager
def mapped(path: Path) -> Iterator[int]:
    """Map a file to be written to, and close it."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    fd = os.open(path, os.O_RDWR)
    address = libc.mmap(
        None, ctypes.c_size_t(4096), *SHARED_AND_WRITABLE, fd, ctypes.c_long(0)
    )
    os.close(fd)
    yield address
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(4096))


def open_for_writing(path: Path) -> None:
    """Open and close a file for writing, as another process that doesn't wait."""
    program = "import os, sys; os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)"
    subprocess.run(
        [sys.executable, "-c", program, path], check=False, stderr=subprocess.DEVNULL
    )


@pytest.mark.filesystems("ext4", "xfs", "btrfs", "tmpfs")
class TestLeased:
    """What the kernel tells for certain."""

    def test_whoever_opens_it_for_writing_is_noticed(self, base: Path) -> None:
        with used(base) as source:
            identity.refuse_if_changed(source)
            open_for_writing(base)
            with pytest.raises(ImageError, match="opened it for writing"):
                identity.refuse_if_changed(source)
        open_for_writing(base)

    def test_what_changes_no_byte_does_not_matter(self, base: Path) -> None:
        """Nova touches a base that it uses, libvirt gives it to QEMU's user."""
        with used(base) as source:
            os.utime(base)
            os.chown(base, 1, 1)
            os.link(base, base.with_name("link"))
            identity.refuse_if_changed(source)

    @pytest.mark.parametrize("how", ["open", "mapped"])
    def test_what_is_open_for_writing_is_refused(
        self, base: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(identity, "_PATIENCE", 0.0)
        with ExitStack() as stack:
            enter = base.open("r+b") if how == "open" else mapped(base)
            stack.enter_context(enter)
            with pytest.raises(ImageError, match="open for writing"):
                stack.enter_context(used(base))
        with used(base) as source:
            assert read_lease.is_held(source.fd)

    def test_who_just_finished_writing_is_waited_for(
        self, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = base.open("r+b")
        monkeypatch.setattr(time, "sleep", lambda seconds: file.close())
        with used(base) as source:
            identity.refuse_if_changed(source)

    def test_many_use_it_at_once_and_all_others_may_read_it(self, base: Path) -> None:
        with used(base) as first, used(base) as second:
            assert base.read_bytes() == b"x" * MIB
            for source in (first, second):
                identity.refuse_if_changed(source)
            assert not lease.is_leased(first.fd)  # which would keep readers away


@pytest.mark.filesystems("ext4", "xfs", "btrfs")
def test_without_a_lease_no_date_hides_a_change(base: Path) -> None:
    with base.open("rb") as file:
        before = identity.of(file.fileno())
        assert len(before) > 2
        status = base.stat()
        # within one tick of the kernel's clock it would be as it was
        while base.stat().st_ctime_ns == status.st_ctime_ns:
            with base.open("r+b") as written:
                written.write(b"y")
            os.utime(base, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert identity.of(file.fileno()) != before


def test_another_users_base_is_used_without_a_lease() -> None:
    """Only its owner and root can take one; nobody is refused for that."""
    if os.geteuid() != 0:
        raise filesystems.Unavailable("being another user takes root")
    with ordinary_user.public_directory() as public:
        base, disk = public / "base", public / "disk"
        base.write_bytes(b"x" * MIB)
        finished = subprocess.run(
            ordinary_user.command(*command("provision", disk, "--base", base)),
            capture_output=True,
            text=True,
            check=False,
            env=environment(HOME="/nonexistent", XDG_RUNTIME_DIR=str(public)),
        )
        assert finished.returncode == 0, finished.stderr
        assert images.info(disk, format="qcow2")["backing-filename"] == str(base)


@pytest.mark.filesystems("ext4")
def test_a_disk_is_inspected_while_it_is_a_base_in_use(base: Path) -> None:
    """A read lease is none that looking would break."""
    with used(base) as source:
        finished = allocpolicy("inspect", base, "--format", "raw", "-f", "json")
        assert finished.status == 0, finished.stderr
        identity.refuse_if_changed(source)


@pytest.mark.filesystems("ext4")
def test_a_layer_that_is_open_for_writing_is_not_copied(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backing file is held like a base, while the disk above it is rewritten."""
    disk = base.with_name("disk")
    arguments = ("-q", "-f", "qcow2", "-F", "raw", "-b", base)
    images.qemu_img("create", *arguments, disk)
    apply = ("apply", disk, "--format", "qcow2", "--strategy", "performance")
    monkeypatch.setattr(identity, "_PATIENCE", 0.0)
    with base.open("r+b"):
        finished = allocpolicy(*apply)
        assert finished.status == 2, finished.stderr
        assert f"image {base}: a process has it open for writing" in finished.stderr
    assert allocpolicy(*apply).status == 0
