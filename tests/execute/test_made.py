"""What steps leave broken is their failure, named in one line, and nothing is left."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, ImageError, NotEnoughSpace, StrategyFailed, Target
from allocpolicy.execute.job import Job
from allocpolicy.execute.new import make
from allocpolicy.images.base_image import as_base, open_source
from tests.execute.test_new import SIZE, Do, new_job, plan_of
from tests.harness import images

pytestmark = [pytest.mark.filesystems("xfs"), pytest.mark.qemu]

Spoil = Callable[[bytearray], object]


def qcow2(tmp_path: Path, *options: object, size: int = SIZE) -> bytes:
    """Return the bytes of a new qcow2."""
    image = tmp_path / "made.qcow2"
    image.unlink(missing_ok=True)
    images.qemu_img("create", "-q", "-f", "qcow2", *options, image, size)
    return image.read_bytes()


def carry_out(job: Job, content: bytes) -> None:
    """Provision with a step that writes this file."""

    def write(target: Target) -> None:
        os.ftruncate(target.fd, 0)
        os.pwrite(target.fd, content, 0)

    make(plan_of([Do(function=write)], peak=SIZE), job)


@pytest.fixture
def job(directory: Path) -> Job:
    found = new_job(directory / "disk")
    request = replace(found.request, format=DiskFormat.QCOW2)
    return replace(found, request=request)


def refused(job: Job, content: bytes, *, match: str) -> None:
    with pytest.raises(StrategyFailed, match=match) as caught:
        carry_out(job, content)
    said = str(caught.value)
    assert said.startswith("strategy 'theirs' of d 1 (theirs:Theirs) failed in Do.run")
    assert len(said.splitlines()) == 1
    assert os.listdir(job.directory.path) == []


def test_a_whole_one_is_taken(job: Job, tmp_path: Path) -> None:
    carry_out(job, qcow2(tmp_path))


SPOILT: dict[str, Spoil] = {
    "empty": lambda content: content.clear(),
    "no qcow2": lambda content: content.__setitem__(slice(4), b"none"),
    "a truncated header": lambda content: content.__delitem__(slice(60, None)),
    "only a magic": lambda content: content.__delitem__(slice(4, None)),
    "a version that nobody knows": lambda content: content.__setitem__(7, 9),
    "clusters of no size": lambda content: content.__setitem__(
        slice(20, 24), b"\xff" * 4
    ),
    "an L1 table past the end": lambda content: content.__setitem__(
        slice(40, 48), struct.pack(">Q", 1 << 40)
    ),
    "an unaligned L1 table": lambda content: content.__setitem__(47, 7),
    "a refcount table past the end": lambda content: content.__setitem__(
        slice(48, 56), struct.pack(">Q", 1 << 40)
    ),
    "an unknown feature": lambda content: content.__setitem__(72, 0x80),
    "the dirty bit": lambda content: content.__setitem__(79, 1),
    "the corrupt bit": lambda content: content.__setitem__(79, 2),
    "an endless header": lambda content: content.__setitem__(
        slice(100, 104), b"\xff" * 4
    ),
    "malformed tables": lambda content: content.extend(
        _l2_at_the_end(content)  # which is not aligned
    ),
    "refcounts of zero": lambda content: content.__setitem__(
        slice(at := _refcount_block(content), at + 512), bytes(512)
    ),
    "another size": lambda content: content.__setitem__(
        slice(24, 32), struct.pack(">Q", SIZE * 2)
    ),
}


def _refcount_block(content: bytearray) -> int:
    """Return where the first block of refcounts is, in bytes."""
    (table,) = struct.unpack_from(">Q", content, 48)
    (block,) = struct.unpack_from(">Q", content, table)
    return int(block)


def _l2_at_the_end(content: bytearray) -> bytes:
    (offset,) = struct.unpack_from(">Q", content, 40)
    struct.pack_into(">Q", content, offset, len(content) + 512)
    return bytes(4096)


@pytest.mark.parametrize("fault", SPOILT)
def test_a_broken_qcow2_is_the_strategys_fault(
    job: Job, tmp_path: Path, fault: str
) -> None:
    """Never "image …: not a qcow2", as if the user had given it."""
    content = bytearray(qcow2(tmp_path))
    SPOILT[fault](content)
    refused(job, bytes(content), match="it made is broken")


@pytest.mark.parametrize(
    "options",
    [
        (
            "-o",
            "encrypt.format=aes,encrypt.key-secret=s",
            "--object",
            "secret,id=s,data=k",
        ),
        ("-o", "data_file=data"),
    ],
)
def test_what_nobody_asked_for_is_refused(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(job, qcow2(tmp_path, *options), match="broken")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    image = tmp_path / "base"
    image.write_bytes(b"b" * SIZE)
    return image


NAMES = ["{}", 'json:{{"driver":"raw","file.filename":"{}"}}', "nbd:localhost:1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_backing_file_that_nobody_asked_for_is_refused(
    job: Job, tmp_path: Path, base: Path, name: str
) -> None:
    """The guest would read any file of the host."""
    backing = ("-u", "-b", name.format(base), "-F", "raw")
    refused(job, qcow2(tmp_path, *backing), match="not asked for")


@pytest.mark.parametrize("format", ["raw", "qcow2", None])
def test_the_base_image_is_below_in_its_own_format(
    job: Job, tmp_path: Path, base: Path, format: str | None
) -> None:
    """QEMU would probe it, or read what a guest wrote as a header."""
    content = bytearray(qcow2(tmp_path, "-u", "-b", base, "-F", format or "raw"))
    if format is None:
        content = content.replace(struct.pack(">LL", 0xE2792ACA, 3), bytes(8))
    with open_source(base, declared="raw") as source:
        image = as_base(source)
        based = replace(
            job,
            facts=replace(job.facts, base=image),
            request=replace(job.request, base=image),
        )
        if format == "raw":
            carry_out(based, bytes(content))
        else:
            refused(based, bytes(content), match="format of its backing file")


@pytest.mark.parametrize("broken", [False, True])
def test_a_base_image_that_changed_stays_the_users_to_mend(
    job: Job, tmp_path: Path, base: Path, broken: bool
) -> None:
    """Also where the disk is broken for that."""
    content = qcow2(tmp_path, "-u", "-b", base, "-F", "raw")
    content = content[:60] if broken else content
    with open_source(base, declared="raw") as source:
        changed = replace(as_base(source), identity=(0,))
        facts = replace(job.facts, base=changed)
        with pytest.raises(ImageError) as caught:
            carry_out(
                replace(job, facts=facts, request=replace(job.request, base=changed)),
                content,
            )
    assert caught.value.path == base


def test_an_image_is_no_raw_disk(job: Job, tmp_path: Path) -> None:
    """Neither by its size nor, where that is right, by its content."""
    raw = replace(job, request=replace(job.request, format=DiskFormat.RAW))
    content = qcow2(tmp_path)
    refused(raw, content, match="virtual_size")
    refused(raw, content.ljust(SIZE, b"\0"), match="a qcow2")


def test_a_lack_of_space_stays_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> object:
        raise NotEnoughSpace(job.directory.path, 1, 0, "no space")

    monkeypatch.setattr("allocpolicy.execute.made.observe.disk", fail)
    with pytest.raises(NotEnoughSpace):
        carry_out(job, b"")
