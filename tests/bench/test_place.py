"""What was measured is gone: afterwards, after a signal, and after a kill later on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allocpolicy import Error
from allocpolicy.bench import place

HOLDS = """\
import sys, time
from pathlib import Path
from allocpolicy.bench import place
with place.made(Path(sys.argv[1])) as room:
    (room / "disk").write_bytes(b"content")
    (room / "below").mkdir()
    (room / "below" / "file").touch()
    print(room, flush=True)
    time.sleep(600)
"""


@contextmanager
def held(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Have a process that has a place in the directory, which is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(directory)], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_it_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with place.made(tmp_path) as room:
        assert room.parent == tmp_path
        assert room.stat().st_mode & 0o777 == 0o700
        (room / "disk").touch()
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_after_a_failure(tmp_path: Path) -> None:
    failing = pytest.raises(Error, match="as expected")
    with failing, place.made(tmp_path):
        raise Error("as expected")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_nothing_before(tmp_path: Path) -> None:
    with held(tmp_path) as (process, room):
        assert place.swept(tmp_path) == []
        assert (room / "below" / "file").exists()
        process.kill()
        process.wait()
    assert room.is_dir()
    assert place.swept(tmp_path) == [room]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_at_once_left_nothing_but_a_name(tmp_path: Path) -> None:
    empty = tmp_path / f"{place.PREFIX}0123"
    empty.mkdir()
    assert place.swept(tmp_path) == [empty]
    assert not empty.exists()


def test_nothing_is_removed_for_its_name(tmp_path: Path) -> None:
    """Somebody else's directory, or a link to one, may have such a name."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "disk").touch()
    (tmp_path / f"{place.PREFIX}a").symlink_to(tmp_path / "kept")
    other = tmp_path / f"{place.PREFIX}b"
    other.mkdir()
    (other / "disk").touch()
    (tmp_path / f"{place.PREFIX}c").touch()
    assert place.swept(tmp_path) == []
    assert (tmp_path / "kept" / "disk").exists() and (other / "disk").exists()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_user_s_directory_is_left(tmp_path: Path) -> None:
    """Also one that has a lock's name in it."""
    for owner in ("directory", "lock"):
        other = tmp_path / f"{place.PREFIX}{owner}"
        other.mkdir()
        (other / "lock").touch()
        os.chown(other if owner == "directory" else other / "lock", 65534, 65534)
    assert place.swept(tmp_path) == []
    assert all((one / "lock").exists() for one in tmp_path.iterdir())


def test_a_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    failing = pytest.raises(Error, match="make a directory for the disks")
    with failing, place.made(tmp_path / "gone"):
        pass
