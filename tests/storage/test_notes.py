"""A note is there for the next one who takes it, once, until it is old."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from allocpolicy.errors import InvalidRequest
from allocpolicy.storage import notes

LONG = 600.0


def test_a_note_is_taken_once(tmp_path: Path) -> None:
    directory = tmp_path / "notes"
    assert not notes.take("a", directory=directory, seconds=LONG)
    assert not directory.exists()
    notes.leave("a", directory=directory, seconds=LONG)
    notes.leave("a", directory=directory, seconds=LONG)
    assert not notes.take("b", directory=directory, seconds=LONG)
    assert notes.take("a", directory=directory, seconds=LONG)
    assert not notes.take("a", directory=directory, seconds=LONG)
    assert not list(directory.iterdir())


def test_only_its_owner_may_look(tmp_path: Path) -> None:
    directory = tmp_path / "notes"
    notes.leave("a", directory=directory, seconds=LONG)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "a").stat().st_mode & 0o777 == 0o600


def test_an_old_note_says_nothing_and_goes(tmp_path: Path) -> None:
    directory = tmp_path / "notes"
    for name in ("a", "b"):
        notes.leave(name, directory=directory, seconds=LONG)
        os.utime(directory / name, (1, 1))
    assert not notes.take("a", directory=directory, seconds=LONG)
    notes.leave("c", directory=directory, seconds=LONG)
    assert [one.name for one in directory.iterdir()] == ["c"]


def test_of_too_many_the_oldest_goes(tmp_path: Path) -> None:
    directory = tmp_path / "notes"
    notes.leave("first", directory=directory, seconds=LONG)
    new = (directory / "first").stat().st_mtime
    os.utime(directory / "first", (new - 9, new - 9))
    for number in range(notes.MOST - 1):
        (directory / str(number)).touch()
    notes.leave("last", directory=directory, seconds=LONG)
    left = {one.name for one in directory.iterdir()}
    assert len(left) == notes.MOST
    assert "first" not in left
    assert "last" in left


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    directory = tmp_path / "notes"
    notes.leave("a", directory=directory, seconds=LONG)
    (directory / "b").symlink_to(tmp_path / "target")
    with pytest.raises(InvalidRequest):
        notes.leave("b", directory=directory, seconds=LONG)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    directory = tmp_path / "notes"
    notes.leave("b", directory=directory, seconds=LONG)
    make(directory / "a")
    with pytest.raises(InvalidRequest):
        notes.leave("a", directory=directory, seconds=LONG)
    if make is os.mkdir:
        with pytest.raises(InvalidRequest):
            notes.take("a", directory=directory, seconds=LONG)


@pytest.mark.parametrize("which", ["notes", "."])
def test_a_directory_that_others_may_change_is_refused(
    tmp_path: Path, which: str
) -> None:
    directory = tmp_path / "above" / "notes"
    notes.leave("a", directory=directory, seconds=LONG)
    (directory if which == "notes" else directory.parent).chmod(0o777)
    with pytest.raises(InvalidRequest, match="others may write"):
        notes.take("a", directory=directory, seconds=LONG)
    with pytest.raises(InvalidRequest, match="others may write"):
        notes.leave("a", directory=directory, seconds=LONG)


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "notes").symlink_to("elsewhere")
    with pytest.raises(InvalidRequest):
        notes.leave("a", directory=tmp_path / "notes", seconds=LONG)
