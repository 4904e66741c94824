"""What is read is all that the file has there, however little a call returns."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocpolicy.storage import reading

CONTENT = bytes(range(256)) * 4
PREAD = os.pread


@pytest.mark.parametrize("most", [1, 100, 4096])
def test_short_reads_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """As after a signal, or before a bad block; only the end of the file ends it."""
    monkeypatch.setattr(os, "pread", lambda fd, n, at: PREAD(fd, min(n, most), at))
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        assert reading.read(file.fileno(), 500, offset=200) == CONTENT[200:700]
        assert reading.read(file.fileno(), 5000, offset=1000) == CONTENT[1000:]
        assert reading.read(file.fileno(), 10, offset=5000) == b""
