"""Direct writes of 4 KiB in unkind orders, until there is no space.

The orders are first writes over an unwritten disk; all but `stride` leave written and
unwritten blocks alternating, which makes the most extents.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 4096
WRITERS = 16


def ascending(count: int) -> list[int]:
    """Return the even numbers of ``count`` blocks, in their order."""
    return list(range(0, count, 2))


def shuffled(count: int) -> list[int]:
    """Return the even numbers of ``count`` blocks in an order by chance."""
    blocks = ascending(count)
    random.Random(count).shuffle(blocks)
    return blocks


def stride(count: int) -> list[int]:
    """Return every 21st number, round and round, for half of ``count`` blocks.

    It is the order of ``qemu-img bench -s 4096 -S 86016``.
    """
    return [index * 21 % count for index in range(count // 2)]


def comb(count: int) -> list[int]:
    """Return every fourth number upwards, then those between downwards.

    Written one after the other, the way down meets tree leaves that are full.
    """
    return [*range(0, count, 4), *range((count - 1) // 4 * 4 - 2, 0, -4)]


def write_blocks(path: Path, blocks: Sequence[int], *, writers: int = WRITERS) -> int:
    """Write the blocks of 4 KiB with these numbers; return how many were written.

    They are written in this order, but for the few that several writers have in flight
    together. It stops at the first ENOSPC.

    :raises OSError: when a write fails of anything else.
    """
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    # An anonymous map is aligned to pages, as O_DIRECT wants it.
    buffer = mmap.mmap(-1, BLOCK)
    buffer.write(b"\x5a" * BLOCK)
    full = False

    def write_share(first: int) -> int:
        nonlocal full
        written = 0
        for block in blocks[first::writers]:
            if full:
                break
            try:
                count = os.pwrite(fd, buffer, block * BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                full = True
                break
            if count != BLOCK:
                raise OSError(errno.EIO, "short write", str(path))
            written += 1
        return written

    try:
        with ThreadPoolExecutor(writers) as pool:
            return sum(pool.map(write_share, range(writers)))
    finally:
        os.close(fd)


def qemu_io(path: Path, commands: Iterable[str], *, image_format: str) -> int:
    """Run commands of qemu-io on an image; return how many met ENOSPC.

    The cache is off; zeroes stay zeroes and are not unmapped.

    :raises AssertionError: when a command failed of anything else.
    """
    result = subprocess.run(
        ["qemu-io", "-f", image_format, "--cache=none", "--discard=ignore", path],
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        check=False,
        text=True,
    )
    said = (result.stdout + result.stderr).replace("qemu-io> ", "\n").splitlines()
    failures = [line for line in said if "failed" in line or "can't" in line]
    others = [line for line in failures if "No space left on device" not in line]
    if others:
        raise AssertionError(f"qemu-io: {others[0]}, and {len(others) - 1} more")
    return len(failures)
