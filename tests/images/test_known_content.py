"""What was found in an image is remembered while it is the same, and checked anyhow."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.images import base_image, inspector, known_content
from allocpolicy.storage import inode, named_lock, trust
from tests.harness import images


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of the memories, which only we can change."""
    top = Path("/run" if os.geteuid() == 0 else Path.cwd())
    for one in (top, *top.parents):
        if trust.distrust(one.stat()) is not None:
            pytest.skip(f"others may change {one}")
    directory = Path(tempfile.mkdtemp(dir=top, prefix="allocpolicy-test-"))
    monkeypatch.setattr(named_lock, "own_directory", lambda: directory)
    monkeypatch.setattr(inode, "_SETTLED", -(10**15))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The image of each time that the inspector looked."""
    looked: list[Path] = []
    inspect = inspector.inspect

    def counting(fd: int, *, path: Path) -> str:
        looked.append(path)
        return inspect(fd, path=path)

    monkeypatch.setattr(inspector, "inspect", counting)
    return looked


def found(path: Path) -> str:
    with path.open("rb") as file:
        return known_content.found(file.fileno(), path=path)


def raw(directory: Path) -> Path:
    path = directory / "base.raw"
    path.write_bytes(b"guest's own bytes" * 4096)
    return path


def qcow2(directory: Path) -> Path:
    path = directory / "base.qcow2"
    images.qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    return path


def test_an_image_is_looked_at_once(
    memory: Path, tmp_path: Path, looks: list[Path]
) -> None:
    images_of = {raw(tmp_path): "raw", qcow2(tmp_path): "qcow2"}
    for path, format in images_of.items():  # the two may have one place in turn
        assert [found(path) for _ in range(3)] == [format] * 3
    assert looks == [*images_of]
    assert all(file.stat().st_mode & 0o077 == 0 for file in memory.iterdir())


def test_an_image_that_changed_is_looked_at_again(
    memory: Path, tmp_path: Path, looks: list[Path]
) -> None:
    """Though its size and its dates are put back, as any owner can do it."""
    path = raw(tmp_path)
    assert found(path) == "raw"
    was = path.stat()
    while path.stat().st_ctime_ns == was.st_ctime_ns:  # within a tick of the clock
        with path.open("r+b") as file:
            file.write(qcow2(tmp_path).read_bytes()[:512])
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert path.stat().st_size == was.st_size
    assert found(path) == "qcow2"
    assert len(looks) == 2


def test_what_is_too_new_to_tell_a_change_is_not_remembered(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inode, "_SETTLED", 10**15)
    assert found(raw(tmp_path)) == "raw"
    assert not [*memory.iterdir()]


def test_formats_that_only_the_inspector_reads_are_not_remembered(
    memory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "base.vmdk"
    images.qemu_img("create", "-q", "-f", "vmdk", path, "1M")
    assert found(path) == "vmdk"
    assert not [*memory.iterdir()]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"identity": 1}'])
def test_a_memory_that_was_cut_short_or_garbled_is_none(
    memory: Path, tmp_path: Path, content: bytes
) -> None:
    path = raw(tmp_path)
    assert found(path) == "raw"
    (file,) = memory.iterdir()
    file.write_bytes(content)
    assert found(path) == "raw"


def test_a_memory_that_others_may_have_made_is_none(
    memory: Path, tmp_path: Path, looks: list[Path]
) -> None:
    path = raw(tmp_path)
    assert found(path) == "raw"
    memory.chmod(0o777)
    assert found(path) == "raw"
    assert len(looks) == 2


def test_a_wrong_memory_is_no_more_than_a_wrong_declaration(
    memory: Path, tmp_path: Path
) -> None:
    """The content is checked against it, as it is against what people declare."""
    path = raw(tmp_path)
    assert found(path) == "raw"
    (file,) = memory.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"raw"', b'"qcow2"'))
    assert found(path) == "qcow2"
    with pytest.raises(ImageError), base_image.open_source(path, declared=None):
        pass
