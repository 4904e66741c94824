"""Whole runs, on real filesystems and with real guests: what they say and leave."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from allocpolicy.bench import layouts, place
from allocpolicy.bench.guest.initramfs import STARTED
from tests.harness.cli import allocpolicy, allocpolicy_process, command, environment
from tests.harness.images import MIB
from tests.harness.patience import PATIENCE
from tests.harness.terminal import on_terminal

SMALL = ("--quick", "--size", "8M", "--yes")
OUTSIDE = "file, no VM"
GUESTS = ("performance", "none raw", "qemu-img: overlay, preallocate filter")


def of(*names: str) -> list[str]:
    return [part for name in names for part in ("--layout", name)]


def left(directory: Path) -> list[Path]:
    return list(directory.glob(f"{place.PREFIX}*"))


@pytest.mark.filesystems("xfs")
def test_a_guest_writes_to_each_layout(directory: Path) -> None:
    """And QEMU does without one; of a file in no VM there is what dd writes."""
    finished = allocpolicy(
        "bench", directory, *SMALL, *of(*GUESTS, OUTSIDE), "-f", "json"
    )
    assert finished.status == 0, finished.stderr
    rows = {row["layout"]: row for row in finished.document}
    assert list(rows) == [*GUESTS, OUTSIDE]
    for name, row in rows.items():
        assert (row["reason"], row["no_guest"]) == (None, None)
        assert row["accelerator"] in ("kvm", "tcg")
        assert (row["filesystem"], row["direct"]) == ("xfs", True)
        assert row["dd_rate"] > 0
        assert (row["first_writes"] is None) is (name == OUTSIDE)
    assert [name for name, row in rows.items() if row["recommended"]] == ["performance"]
    assert "in a guest by" in finished.stderr
    assert left(directory) == []


@pytest.mark.parametrize("width", [60, 80])
def test_what_people_see_fits(tmp_path: Path, width: int) -> None:
    """Without bars, as -q has it."""
    names = ("performance", "qemu-img: overlay, preallocate filter", OUTSIDE)
    line = ("-q", "bench", tmp_path, *SMALL, "--no-guest", *of(*names))
    shown = on_terminal(*line, width=width, NO_COLOR="1")
    assert shown.status == 0, shown.text
    assert shown.lines[0].startswith("LAYOUT")
    assert len(shown.lines) > len(names)
    assert max(map(len, shown.lines)) <= width, shown.text


@pytest.mark.filesystems("btrfs", "ext2")
def test_every_layout_is_measured_or_says_why_not(directory: Path) -> None:
    """ext2 has no fallocate."""
    arguments = (*SMALL, "--no-guest", "-f", "json")
    finished = allocpolicy("bench", directory, *arguments)
    rows = finished.document
    assert [row["layout"] for row in rows] == [one.name for one in layouts.every()]
    failed = {row["layout"] for row in rows if row["reason"]}
    if rows[0]["filesystem"] == "ext2":
        assert failed == {"space", "performance data=falloc"}
        assert "this storage cannot do it" in finished.stderr
    else:
        assert failed == set()
    for row in rows:
        assert row["reason"] or row["layout"] == OUTSIDE or row["first_writes"] > 0
    assert left(directory) == []


@pytest.mark.system
def test_a_directory_of_any_name_is_measured_wherever_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a relative path as well, and though no text can say the name."""
    monkeypatch.chdir(tmp_path)
    directory = Path("a,b =\n\udcff")
    directory.mkdir()
    names = ("performance", "qemu-img: overlay", OUTSIDE)
    finished = allocpolicy("bench", directory, *SMALL, *of(*names), "-f", "json")
    assert finished.status == 0, finished.stderr
    for row in finished.document:
        assert (row["reason"], row["no_guest"]) == (None, None)
        assert row["dd_rate"] > 0
        assert row["directory"] == str(tmp_path / directory)
    assert list(tmp_path.iterdir()) == [tmp_path / directory]
    assert list(directory.iterdir()) == []


@contextmanager
def in_a_guest(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Have a run that takes long, and whose guest has started to write."""
    arguments = ("bench", directory, "--size", "256M", "--yes", *of("performance"))
    process = subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process, started(directory, process)
        finally:
            process.kill()


def started(directory: Path, process: subprocess.Popen[str]) -> Path:
    """Return the place once the guest there runs its script on a disk."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        for found in left(directory):
            console = found / "console"
            if not console.exists() or not (found / "d0").exists():
                continue
            if STARTED in console.read_text(errors="replace"):
                return found
        time.sleep(0.05)
    raise AssertionError("no guest started")


def users(room: Path) -> list[str]:
    """Return the command lines of processes that name the place."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(room) in line:
            found.append(line)
    return found


@pytest.mark.system
def test_ctrl_c_amid_a_guest_leaves_nothing(tmp_path: Path) -> None:
    """No file, and no process."""
    with in_a_guest(tmp_path) as (process, room):
        assert users(room)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT
    assert "nothing was left behind" in said
    assert (left(tmp_path), users(room)) == ([], [])


@pytest.mark.system
def test_after_a_kill_no_process_is_left_and_the_next_run_removes_the_files(
    tmp_path: Path,
) -> None:
    with in_a_guest(tmp_path) as (process, room):
        process.kill()
        process.wait()
    deadline = time.monotonic() + PATIENCE
    while users(room) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert users(room) == []
    assert left(tmp_path) == [room]
    finished = allocpolicy("bench", tmp_path, *SMALL, "--no-guest", *of(OUTSIDE))
    assert finished.status == 0, finished.stderr
    assert f"removed {room}, which a killed run had left" in finished.stderr
    assert left(tmp_path) == []


@pytest.mark.filesystems("xfs")
def test_what_takes_more_than_a_tenth_is_asked_for(directory: Path) -> None:
    """Where nobody can be asked it is refused, and what doesn't fit is in any case."""
    small = ("bench", directory, "--quick", "--size", "8M", *of("performance", "none"))
    finished = allocpolicy(*small)
    assert finished.status == 2
    assert "MiB of the " in finished.stderr and "--yes" in finished.stderr
    status, said = answered("n", *small)
    assert status == 2
    assert "Measure? [y/N]" in said and "nothing was measured" in said
    status, said = answered("y", *small, "--no-guest")
    assert status == 0 and "first writes of 4 KiB" in " ".join(said.split())
    finished = allocpolicy("bench", directory, "--size", "1T", "--yes")
    assert finished.status == 3
    assert "not enough space" in finished.stderr
    assert list(directory.iterdir()) == []


def answered(answer: str, *arguments: object) -> tuple[int, str]:
    """Run a command on a terminal on which somebody types; return what is on it."""
    controller, end = pty.openpty()
    try:
        process = subprocess.Popen(
            command(*arguments), env=environment(), stdin=end, stdout=end, stderr=end
        )
        os.write(controller, f"{answer}\n".encode())
        said = b""
        with process:
            os.close(end)
            while chunk := read(controller):
                said += chunk
        return process.returncode, said.decode(errors="replace")
    finally:
        os.close(controller)


def read(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # EIO: the other end is closed
        return b""


@pytest.mark.qemu
@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_is_drawn(tmp_path: Path, suffix: str) -> None:
    """Whole, and with each layout's name in what has text."""
    picture, names = tmp_path / f"a.{suffix}", ("performance", OUTSIDE)
    options = (*SMALL, "--no-guest", *of(*names), "--plot", picture)
    # matplotlib opens files that it leaves open
    finished = allocpolicy_process(
        "bench", tmp_path, *options, MPLCONFIGDIR=str(tmp_path)
    )
    assert finished.status == 0, finished.stderr
    content = picture.read_bytes()
    if suffix == "svg":
        text = content.decode()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert all(f"<!-- {name} -->" in text for name in names)
    else:
        assert content.startswith(b"\x89PNG\r\n") and content.endswith(
            b"IEND\xaeB`\x82"
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.pdf", "'pdf' is no picture"),
        ("a", "'' is no picture"),
        ("gone/a.svg", "its directory does not exist"),
    ],
)
def test_what_can_t_be_drawn_is_told_before_anything_is_measured(
    tmp_path: Path, name: str, said: str
) -> None:
    finished = allocpolicy("bench", tmp_path, *SMALL, "--plot", tmp_path / name)
    assert finished.status == 2
    assert said in finished.stderr


def test_a_picture_that_nobody_can_write_is_told_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    """Not when the figures are there, which would be lost."""
    (tmp_path / "a.svg").mkdir()
    for path in (tmp_path / "a.svg", Path("/proc/a.svg")):
        options = (*SMALL, "--no-guest", *of(OUTSIDE), "--plot", path)
        finished = allocpolicy("-v", "bench", tmp_path, *options)
        assert finished.status == 2
        assert f"--plot {path}: " in finished.stderr
        assert "Linux" not in finished.stderr


def test_a_picture_needs_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    finished = allocpolicy("bench", tmp_path, *SMALL, "--plot", tmp_path / "a.svg")
    assert finished.status == 2
    assert "pip install 'allocpolicy[plot]'" in finished.stderr


def test_without_what_a_guest_needs_the_rest_is_measured(tmp_path: Path) -> None:
    """And which package has it is said."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("qemu-img", "setpriv", "prlimit"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    finished = allocpolicy_process(
        *("bench", tmp_path, *SMALL, *of("none", OUTSIDE), "-f", "json"),
        PATH=str(programs),
    )
    assert finished.status == 0, finished.stderr
    none, outside = json.loads(finished.stdout)
    assert none["dd_rate"] is None and none["first_writes"] > 0
    assert outside["dd_rate"] > 0
    assert "install" in none["no_guest"]
    assert f"no guest ran: {none['no_guest']}" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layout", "performence"), "did you mean 'performance'"),
        (("--rounds", "0"), "at least 1"),
        (("--size", "1000001"), "blocks of 1 MiB"),
        (("--base", "gone"), "gone"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    finished = allocpolicy("bench", tmp_path, *SMALL, *arguments)
    assert finished.status == 2
    assert said in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("gone", "file"):
        finished = allocpolicy("bench", tmp_path / name, *SMALL)
        assert finished.status == 2
        assert str(tmp_path / name) in finished.stderr


@pytest.mark.qemu
def test_disks_start_from_the_operator_s_image(tmp_path: Path) -> None:
    """Whatever its format and its size."""
    image = tmp_path / "image"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", image, f"{100 * MIB}"], check=True
    )
    options = (*SMALL, "--no-guest", *of("performance", "qemu-img: overlay"))
    finished = allocpolicy("bench", tmp_path, *options, "--base", image, "-f", "json")
    assert finished.status == 0, finished.stderr
    assert all(row["first_writes"] > 0 for row in finished.document)
    assert sorted(tmp_path.iterdir()) == [image]
