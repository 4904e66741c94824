"""Finding out a base image's format costs what its file stores, not what it says."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from allocpolicy.errors import ImageError
from allocpolicy.foreign import vhdx, vpc
from allocpolicy.images import base_image

MiB, TiB = 1 << 20, 1 << 40
LIMIT = 10  # seconds of a processor


def refused(path: Path) -> str:
    """Return why it is no base image; it is found out soon."""
    started = time.process_time()
    with (
        pytest.raises(ImageError) as caught,
        base_image.open_source(path, declared=None),
    ):
        pass
    assert time.process_time() - started < LIMIT
    return caught.value.reason


def test_a_vhdx_whose_metadata_is_far_away(tmp_path: Path) -> None:
    """It is a hole of terabytes away, which nobody reads."""
    image = tmp_path / "image"
    region = vhdx.METADATA + struct.pack("<QII", 2 * TiB, MiB, 1)
    with image.open("wb") as stream:
        stream.write(b"vhdxfile")
        stream.seek(vhdx.REGION_TABLE)
        stream.write(b"regi" + struct.pack("<III", 0, 1, 0) + region)
        stream.truncate(4 * TiB)
    assert "far beyond what it stores" in refused(image)


def test_a_vpc_with_the_largest_table_of_blocks(tmp_path: Path) -> None:
    """Its 16 million entries are a hole, and the last of them is wrong."""
    image = tmp_path / "image"
    entries = vpc.MAX_ENTRIES
    footer = bytearray(512)
    footer[:8], footer[16:24] = vpc.COOKIE, struct.pack(">Q", 512)
    struct.pack_into(">I", footer, vpc.DISK_TYPE, vpc.DYNAMIC)
    struct.pack_into(">I", footer, vpc.CHECKSUM.start, vpc.checksum(bytes(footer)))
    with image.open("wb") as stream:
        stream.write(footer)
        stream.write(
            vpc.DYNAMIC_HEADER.pack(
                vpc.DYNAMIC_COOKIE, 0, 4096, 0x10000, entries, 2 * MiB
            )
        )
        stream.seek(4096 + 4 * (entries - 1))
        stream.write(struct.pack(">I", 1 << 31))
        stream.truncate(4096 + 4 * entries + 16 * MiB)
        stream.seek(0, os.SEEK_END)
        stream.write(footer)
    fd = os.open(image, os.O_RDONLY)
    started = time.process_time()
    try:
        with pytest.raises(ImageError, match=f"block {entries - 1} is outside"):
            vpc.checked_size(fd, path=image)
    finally:
        os.close(fd)
    assert time.process_time() - started < LIMIT
