"""Whatever an image says: it is refused or read as QEMU reads it, soon, and untouched.

A few hundred images, always the same ones, in CI; `tox -e fuzz` tries many thousands.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocpolicy import DiskFormat, Headroom, Policy
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import Error
from allocpolicy.images import base_image, existing
from allocpolicy.images.base_image import SourceImage
from allocpolicy.observe import picture as pictures
from allocpolicy.operations.audit import audit
from allocpolicy.operations.given import Given
from allocpolicy.operations.inspect import inspect_open
from allocpolicy.qcow2 import content
from allocpolicy.qcow2.content import Kind
from allocpolicy.qcow2.header import read_header
from allocpolicy.storage import sparse
from tests.fuzz import images
from tests.fuzz.images import Seed
from tests.harness.cli import allocpolicy

MiB = 1 << 20
POLICY = Policy(headroom=Headroom(ratio=0.01, minimum=MiB))
LIMIT = 5  # seconds of a processor, for all looks at an image of a few MiB
MEMORY = 700 * MiB  # that the looks may take at most, on top of what was there
READABLE = 128 * MiB  # virtual size up to which an image is read whole
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))  # of each test

pytestmark = pytest.mark.qemu

_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str):
        _opened.append(os.path.basename(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seed]:
    return dict(images.seeds(tmp_path_factory.mktemp("seeds")))


@contextmanager
def untouched(image: Path) -> Iterator[None]:
    """Check that the body costs little, and neither writes nor opens anything else."""
    global _watching  # noqa: PLW0603  (an audit hook can't be removed)
    before, listed = _state(image), sorted(os.listdir(image.parent))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))
    memory, started = _peak_memory(), time.process_time()
    _opened.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert time.process_time() - started < LIMIT
    assert _peak_memory() - memory < MEMORY
    assert "bait" not in _opened
    assert sorted(os.listdir(image.parent)) == listed
    assert _state(image) == before


def _state(image: Path) -> tuple[object, ...]:
    status, digest = image.stat(), hashlib.sha256()
    with image.open("rb") as stream:
        for offset, length in sparse.data(stream.fileno()):
            digest.update(os.pread(stream.fileno(), length, offset))
    return (
        digest.hexdigest(),
        status.st_size,
        status.st_mtime_ns,
        status.st_mode,
        status.st_ino,
    )


def _peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def changed(seed: Seed, directory: Path, data: st.DataObject) -> Path:
    """Return a copy of the image with a few changes, alone in its directory.

    A file called bait is above it.
    """
    (directory / "bait").write_bytes(bytes(MiB))
    (directory / "disk").mkdir()
    image = directory / "disk" / "image"
    subprocess.run(["cp", "--sparse=always", seed.path, image], check=True)
    for change in data.draw(images.changes(seed)):
        change(image)
    return image


def look(image: Path, format: DiskFormat) -> None:
    """Inspect the image, picture and all."""
    with existing.opened(image, declared=format) as disk:
        inspect_open(disk, policy=POLICY, given=None)
        pictures.of_file(disk.fd, cells=50)
        if format is DiskFormat.QCOW2:
            header = read_header(disk.fd, path=image)
            pictures.of_qcow2(disk.fd, header, path=image, cells=50)


@settings(max_examples=EXAMPLES or 150)
@given(data=st.data())
def test_a_look_ends_well(
    seeds: dict[str, Seed],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    """As a disk of either format, and as a base: an answer, or one of our errors."""
    seed = seeds[data.draw(st.sampled_from(sorted(seeds)))]
    image = changed(seed, tmp_path_factory.mktemp("look"), data)
    for format in DiskFormat:
        given = Given(choice=Choice(strategy="none", options={}), format=format)
        with untouched(image):
            (row,) = audit([image], given=given, policy=POLICY).rows
        assert row.verdict.reason.isprintable()
        with untouched(image):
            try:
                look(image, format)
            except Error as error:
                assert str(error).isprintable()
    for declared in (None, seed.format):
        with untouched(image):
            try:
                with base_image.open_source(image, declared=declared):
                    pass
            except Error as error:
                assert str(error).isprintable()


@settings(max_examples=EXAMPLES or 25)
@given(data=st.data())
def test_a_change_that_is_only_tried_ends_well(
    seeds: dict[str, Seed],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    """One line says why not, and the image is what it was."""
    seed = seeds[data.draw(st.sampled_from(sorted(seeds)))]
    image = changed(seed, tmp_path_factory.mktemp("try"), data)
    format = data.draw(st.sampled_from(list(DiskFormat)))
    strategy = data.draw(st.sampled_from(["none", "space", "performance"]))
    options = ("--format", format, "--strategy", strategy, "--dry-run")
    with untouched(image):
        finished = allocpolicy("apply", image, *options)
    assert finished.status in (0, 2, 3, 4), finished.stderr
    assert len(finished.stderr.splitlines()) <= 1, finished.stderr


def read(source: SourceImage) -> bytes:
    """Return what the guest reads of a qcow2, as we read it to copy it."""
    assert source.header is not None
    disk = bytearray(source.virtual_size)
    for run in content.runs(source.fd, source.header, path=source.path):
        part = b""
        if run.kind is Kind.COMPRESSED:
            part = content.inflate(source.fd, source.header, run, path=source.path)
        elif run.kind is Kind.DATA:
            part = os.pread(source.fd, run.length, run.host_offset)
        disk[run.offset : run.offset + len(part)] = part
    return bytes(disk)


@settings(max_examples=EXAMPLES or 25)
@given(data=st.data())
def test_what_we_accept_qemu_reads_alike(
    seeds: dict[str, Seed],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    """A base image that we copy, clusters and all; unless its data is malformed."""
    qcow2 = sorted(name for name, seed in seeds.items() if seed.format == "qcow2")
    seed = seeds[data.draw(st.sampled_from(qcow2))]
    directory = tmp_path_factory.mktemp("alike")
    image = changed(seed, directory, data)
    try:
        with base_image.open_source(image, declared="qcow2") as source:
            if source.virtual_size > READABLE:
                return
            ours = read(source)
    except Error:
        return
    raw = directory / "raw"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw"]
    done = subprocess.run(
        [*command, image, raw], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert raw.read_bytes() == ours
