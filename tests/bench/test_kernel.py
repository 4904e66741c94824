"""The guest's kernel is known by its own header, and its modules by their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocpolicy.bench.guest import kernel as kernels
from allocpolicy.bench.guest.programs import NoGuest
from tests.harness.guest import newest_kernel


@pytest.mark.system
def test_a_copy_says_its_version(tmp_path: Path) -> None:
    """Which is what the distribution names its file by."""
    newest = newest_kernel()
    copy = tmp_path / "any name"
    copy.write_bytes(newest.path.read_bytes())
    assert kernels.of_file(copy).version == newest.version


@pytest.mark.system
def test_a_module_comes_after_what_it_needs() -> None:
    names = [
        kernels.module_name(path)
        for path in kernels.with_dependencies(newest_kernel(), ["ext4", "virtio_blk"])
    ]
    assert len(names) == len(set(names))
    if {"jbd2", "ext4"} <= set(names):
        assert names.index("jbd2") < names.index("ext4")
    with pytest.raises(NoGuest, match="no module nonsense"):
        kernels.with_dependencies(newest_kernel(), ["nonsense"])


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", bytes(4096)])
def test_what_is_no_kernel_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(content)
    with pytest.raises(NoGuest, match=r"is not a kernel|guests are of"):
        kernels.of_file(path)
    with pytest.raises(NoGuest):
        kernels.of_file(tmp_path / "gone")
