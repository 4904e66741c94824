"""What a program wrote and when it synced, so that a power cut can be played."""

from __future__ import annotations

import os
import random
from pathlib import Path

REAL_PWRITE, REAL_FSYNC = os.pwrite, os.fsync


class Recorder:
    """Keeps what a growth writes, in sectors, and where it waited for the disk."""

    def __init__(self) -> None:
        self.epochs: list[list[tuple[int, bytes]]] = [[]]

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        content = bytes(data)
        first = -offset % 512
        for start in (0, *range(first, len(content), 512)):
            end = min((offset + start) // 512 * 512 + 512 - offset, len(content))
            if end > start:
                self.epochs[-1].append((offset + start, content[start:end]))
        return REAL_PWRITE(fd, data, offset)

    def fsync(self, fd: int) -> None:
        self.epochs.append([])
        REAL_FSYNC(fd)

    def replay(self, disk: Path, *, cut: int, chance: float | None, size: int) -> None:
        """Do what was synced before the cut, and by chance some of what came then.

        Without a chance it is the later half.
        """
        generator, unsynced = random.Random(cut), self.epochs[cut]
        if chance is None:
            unsynced, chance = unsynced[-(-len(unsynced) // 2) :], 1
        if cut or generator.random() < chance:
            os.truncate(disk, size)
        with disk.open("r+b", buffering=0) as file:
            for epoch in self.epochs[:cut]:
                for offset, data in epoch:
                    REAL_PWRITE(file.fileno(), data, offset)
            for offset, data in unsynced:
                if generator.random() < chance:
                    REAL_PWRITE(file.fileno(), data, offset)
