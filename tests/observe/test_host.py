"""What a directory can do is found by trying, each trial on an empty file."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from allocpolicy import BaseImage, DiskFormat, Policy
from allocpolicy.observe import host
from tests.harness.directory import open_directory


def image(path: Path, *, size: int) -> BaseImage:
    """Return a raw image of so many bytes, open."""
    path.write_bytes(b"x" * size)
    return BaseImage(
        path=path,
        fd=os.open(path, os.O_RDONLY),
        format=DiskFormat.RAW,
        virtual_size=size,
        data_bytes=size,
        plain=True,
        identity=(),
        source=path,
        source_format="raw",
    )


@pytest.mark.filesystems("xfs", "btrfs", "ext4")
def test_sharing_does_not_depend_on_what_was_tried_before(
    directory: Path, filesystem_kind: str
) -> None:
    """Also of a file that is less than a block, which shares up to its end only."""
    found = [
        image(directory / str(size), size=size) for size in (50, 1000, 4096, 100_000)
    ]
    try:
        for images in itertools.permutations(found):
            storage = host.storage(
                open_directory(directory), policy=Policy(), images=images
            )
            shared = [storage.shares(one) for one in found]
            assert shared == [filesystem_kind != "ext4"] * len(found)
    finally:
        for one in found:
            os.close(one.fd)
