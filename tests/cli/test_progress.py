"""Bars of progress, read from a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy import Policy, wording
from allocpolicy.cli.streams import aside, bar, progress
from allocpolicy.operations.audit import audit
from allocpolicy.progress import Progress, unwatched
from tests.harness.terminal import terminal

GIB = 1 << 30
WORK = "convert /var/lib/images/debian.vmdk (vmdk) to /srv/vm/_base/{}.vmdk.raw".format(
    "0123456789abcdef" * 4
)
SHOWS_THE_CURSOR = b"\x1b[?25h"  # when it ends, before the bars are taken away


@pytest.fixture(autouse=True)
def as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def drawn(sent: bytes) -> list[str]:
    """Return the lines that were on the terminal before the bars went."""
    screen = pyte.Screen(1000, 50)
    pyte.ByteStream(screen).feed(sent.rpartition(SHOWS_THE_CURSOR)[0])
    return [line.rstrip() for line in screen.display if line.strip()]


def after(sent: bytes) -> list[str]:
    """Return the lines that are there in the end."""
    screen = pyte.Screen(1000, 50)
    pyte.ByteStream(screen).feed(sent)
    return [line for line in screen.display if line.strip()]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", -1.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_bar_fits_and_has_the_rate_and_the_time_left(width: int) -> None:
    """The description begins with what is done, and ends with the file."""
    with terminal(width) as sent, progress.shown() as watch:
        copied = watch(WORK)
        for done in (1, 2, 3):
            copied(done=done * GIB, total=40 * GIB)
    [line] = drawn(bytes(sent))
    assert len(line) <= width
    assert line.startswith(WORK[:5])
    assert (".raw" in line) or width == 200
    assert re.search(r" 3G of 40G  [0-9.]+[KMGTP]?/s  [0-9]+:[0-9]{2}.* left$", line)
    assert after(bytes(sent)) == []


@pytest.mark.usefixtures("at_once")
def test_when_all_is_copied_no_time_is_said_to_be_left() -> None:
    """The disk may flush it for a while; and a bar has no room for exact bytes."""
    with terminal(80) as sent, progress.shown() as watch:
        copied = watch(f"copy of {wording.format_size(GIB)}")
        for done in (1, 2, 3):
            copied(done=done * GIB, total=3 * GIB)
    [line] = drawn(bytes(sent))
    assert line.startswith("copy of 1.0 GiB ")
    assert "3G of 3G" in line
    assert "left" not in line


@pytest.mark.usefixtures("at_once")
def test_things_are_counted_as_they_are() -> None:
    with terminal(80) as sent, progress.shown(counted=True) as watch:
        audited = watch("audit")
        audited(done=1000, total=2000)
        audited(done=1500, total=2000)
    [line] = drawn(bytes(sent))
    assert re.match(r"audit .* 1500 of 2000  [0-9]+/s  [0-9]+:[0-9]{2}.* left$", line)


@pytest.mark.usefixtures("at_once")
def test_an_audit_has_a_bar_while_it_looks_for_disks(tmp_path: Path) -> None:
    """How many there are is known in the end; then its bar makes room for the next."""
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    told: list[tuple[str, int, int]] = []

    def watch(description: str, /) -> Progress:
        def progress(*, done: int, total: int) -> None:
            told.append((description, done, total))

        return progress

    audit((tmp_path, tmp_path), policy=Policy(), watch=watch)
    looked = [one for one in told if one[0] == "look for disks"]
    assert [total for _, _, total in looked] == [0, 0, 0, 0, 2]
    assert looked[-1] == ("look for disks", 2, 2)
    assert told[len(looked) :] == [("audit", 1, 2), ("audit", 2, 2)]
    with terminal(80) as sent, progress.shown(counted=True) as shown:
        audit(tmp_path, policy=Policy(), watch=shown)
    [line] = drawn(bytes(sent))
    assert line.startswith("audit ")


@pytest.mark.usefixtures("at_once")
def test_a_total_that_is_not_known_is_not_shown() -> None:
    """Nor a time that would be left."""
    with terminal(80) as sent, progress.shown() as watch:
        measured = watch("measure")
        measured(done=GIB, total=0)
        measured(done=2 * GIB, total=0)
    [line] = drawn(bytes(sent))
    assert re.search(r" 2G  [0-9.]+[KMGTP]?/s$", line)


@pytest.mark.usefixtures("at_once")
def test_work_that_is_finished_leaves_its_line_to_the_next() -> None:
    with terminal(80) as sent, progress.shown() as watch:
        for name in ("first", "second", "third"):
            watch(name)(done=GIB, total=GIB)
    [line] = drawn(bytes(sent))
    assert line.startswith("third")


@pytest.mark.usefixtures("at_once")
def test_a_description_draws_nothing() -> None:
    with terminal(80) as sent, progress.shown() as watch:
        watch("a\x1b[2Jb\nc [bold]d")(done=1, total=2)
    [line] = drawn(bytes(sent))
    assert line.startswith(r"a\x1b[2Jb\nc [bold]d ")


def test_quick_work_and_q_have_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 900.0)  # quick on a crowded machine, too
    with terminal(80) as sent:
        with progress.shown() as watch:
            watch("quick")(done=1, total=2)
        with aside.said_by("allocpolicy", quiet=True), progress.shown() as watch:
            assert watch is unwatched
    assert bytes(sent) == b""


def test_nothing_is_drawn_into_a_pipe() -> None:
    with progress.shown() as watch:  # pytest's standard error
        assert watch is unwatched


@given(st.text(), st.integers(10, 100))
def test_a_text_is_cut_in_its_middle(text: str, room: int) -> None:
    cut = bar.fitted(text, room)
    assert len(cut) == min(len(text), room)
    assert (cut == text) == (len(text) <= room)
    assert cut[:3] == text[:3]
    assert cut[-3:] == text[-3:]


def test_a_duration() -> None:
    told = [bar.duration(seconds) for seconds in (0, 59, 172, 3600, 360000)]
    assert told == ["0:00", "0:59", "2:52", "1:00:00", "100:00:00"]
