"""Every change is one record, and nothing else is."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    InvalidRequest,
    Order,
    Policy,
    provision,
    record_changes,
    schema,
)
from allocpolicy.cli.streams.logs import hide_libraries
from allocpolicy.log import author, datagram, entry, telling
from allocpolicy.record import replace
from allocpolicy.storage import signals
from tests.harness import images, logs, plugin
from tests.harness.cli import allocpolicy, environment
from tests.harness.logs import Logs

SIZE = ("--size", "1M")


@pytest.fixture
def log() -> Iterator[Logs]:
    with logs.listening() as listening:
        yield listening


@pytest.fixture
def failing() -> Iterator[Path]:
    with plugin.failing() as path:
        yield path


def done(*arguments: object, **variables: str) -> None:
    finished = allocpolicy(*arguments, **variables)
    assert finished.status == 0, finished.stderr


def test_each_change_of_a_disk_is_one_record(log: Logs, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    changes = (
        ("provision", disk, *SIZE, "--strategy", "none"),
        ("apply", disk, "--strategy", "performance"),
        ("resize", disk, "2M"),
        ("stamp", "set", disk, "--strategy", "none"),
        ("stamp", "set", disk, "--label", "project=a"),
        ("stamp", "remove", disk),
        ("apply", disk, "--format", "qcow2", "--strategy", "none"),
    )
    for words in changes:
        done(*words)
        (record,) = log.records()
        assert record["DISK"] == str(disk)
        assert record["OUTCOME"] == "done"
        assert record["COMMAND"].split()[1] == words[0]
        assert float(record["SECONDS"]) > 0
        assert record["BEFORE" if words[0] != "provision" else "AFTER"]
    assert not log.lines(), "where the journal is, syslog isn't told as well"


@pytest.mark.parametrize(
    "words",
    [
        ("apply",),
        ("apply", "--dry-run", "--strategy", "performance"),
        ("resize", "2M", "--dry-run"),
        ("resize", "1M"),
        ("stamp", "set", "--strategy", "none"),
        ("inspect",),
        ("audit",),
    ],
)
def test_what_leaves_a_disk_as_it_is_is_no_change(
    log: Logs, tmp_path: Path, words: tuple[str, ...]
) -> None:
    disk = tmp_path / "disk"
    done("provision", disk, *SIZE, "--strategy", "none")
    log.records()
    command = words[:2] if words[0] == "stamp" else words[:1]
    done(*command, disk, *words[len(command) :])
    assert not log.records()


def test_a_dry_run_is_no_change(log: Logs, tmp_path: Path) -> None:
    done("provision", tmp_path / "disk", *SIZE, "--dry-run")
    assert not log.records()


def test_before_and_after_are_measured(log: Logs, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    done("provision", disk, *SIZE, "--format", "raw", "--strategy", "none")
    done("apply", disk, "--strategy", "space")
    created, applied = log.records()
    assert "BEFORE" not in created
    before, after = json.loads(applied["BEFORE"]), json.loads(applied["AFTER"])
    assert (before["strategy"], after["strategy"]) == ("none", "space")
    assert (before["allocation"], after["allocation"]) == ("thin", "reserved")
    assert before["actual_size"] < after["actual_size"] == disk.stat().st_blocks * 512
    assert f"apply {disk}: none, 1 MiB raw, " in applied["MESSAGE"]
    # its stamp may take a block
    assert re.search(r" -> space, 1 MiB raw, 1([.]0)? MiB taken \(", applied["MESSAGE"])


def test_a_change_that_has_begun_and_fails_is_told_once(
    log: Logs, tmp_path: Path, failing: Path
) -> None:
    words = ("--strategy", "failing", "--plugin", failing)
    assert allocpolicy("provision", tmp_path / "disk", *SIZE, *words).status == 5
    (record,) = log.records()
    assert (record["OUTCOME"], record["PRIORITY"]) == ("failed", "3")
    assert record["STRATEGY"] == "failing"
    assert "no luck" in record["ERROR"]
    assert record["MESSAGE"].startswith(f"provision {tmp_path}/disk failed: ")


def test_work_in_a_child_has_begun_as_well(
    log: Logs, tmp_path: Path, failing: Path
) -> None:
    """What is done to a disk in place is done by a process that can be killed."""
    disk = tmp_path / "disk"
    done("provision", disk, *SIZE, "--strategy", "none")
    log.records()
    words = ("--strategy", "failing", "--plugin", failing)
    assert allocpolicy("apply", disk, *words).status == 5
    (record,) = log.records()
    assert (record["OUTCOME"], record["OPERATION"]) == ("failed", "apply")
    assert json.loads(record["BEFORE"])["strategy"] == "none"


@contextmanager
def heeded(ending: signal.Signals) -> Iterator[None]:
    """Have a signal not ignored, as SIGHUP is under nohup(1)."""
    before = signal.getsignal(ending)
    if before is signal.SIG_IGN:
        signal.signal(ending, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(ending, before)


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "ended by SIGHUP"),
    ],
)
def test_what_a_signal_ends_has_failed(
    log: Logs,
    tmp_path: Path,
    ending: signal.Signals,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by Ctrl-C: nothing is left, and one line tells of it."""
    # one after another in this process
    monkeypatch.setattr(signals._came, "last", -math.inf)
    with plugin.failing(ending=ending) as failing, heeded(ending):
        words = ("--strategy", "failing", "--plugin", failing)
        ended = allocpolicy("provision", tmp_path / "disk", *SIZE, *words)
    left = "no unfinished disk was left behind"
    told = f"allocpolicy provision: {said}; {left}\n"
    assert (ended.status, ended.stderr) == (128 + ending, told)
    assert not list(tmp_path.iterdir())
    (record,) = log.records()
    assert record["ERROR"] == said


@pytest.mark.parametrize(
    "words",
    [
        ("--strategy", "nonsense"),
        ("--size", "0"),
        ("--strategy", "space", "--size", "8E"),
        ("--base", "missing"),
    ],
)
def test_what_is_refused_has_not_begun(
    log: Logs, tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert allocpolicy("provision", tmp_path / "disk", *SIZE, *words).status in (2, 3)
    assert not log.records()


def test_what_another_process_would_read_is_escaped(log: Logs, tmp_path: Path) -> None:
    """A name can neither add a field nor a line."""
    disk = tmp_path / "a\nPRIORITY=0\n\u202e\udcff"
    done("provision", disk, *SIZE, SUDO_USER="mallory\nPRIORITY=0")
    (record,) = log.records()
    assert record["PRIORITY"] == "6"
    assert record["DISK"].endswith(r"a\nPRIORITY=0\n\u202e\udcff")
    assert r"a\nPRIORITY=0\n\u202e\udcff' --size 1M" in record["MESSAGE"]
    assert all(text.isprintable() for text in record.values())


def test_a_line_has_room_for_who_it_was(log: Logs, tmp_path: Path) -> None:
    """Whatever the path, and what the error says, are as long as."""
    place = tmp_path.joinpath(*(12 * ["d" * 200]))
    place.mkdir(parents=True)
    log.journal.close()
    with plugin.failing(luck="no luck " * 500) as failing:
        words = ("--strategy", "failing", "--plugin", failing)
        assert allocpolicy("provision", place / "disk", *SIZE, *words).status == 5
    (line,) = log.lines()
    assert f"{'d' * 100}/disk failed: " in line
    assert f"; by {author.current().name}: allocpolicy provision " in line


@pytest.mark.parametrize(
    "place", [{"file": Path("/", "f" * 4000)}, {"domain": "u" * 36}]
)
@pytest.mark.parametrize("error", [None, "e" * 4000])
def test_whatever_it_was_before_and_is_now_a_line_says_who(
    place: dict[str, Any], error: str | None
) -> None:
    """Specs of a domain may be many, and their values are anybody's."""
    specs = {f"allocpolicy:a.option{number}": "v" * 400 for number in range(9)}
    done = entry.Entry(
        operation="libvirt set",
        **place,
        before=specs,
        after={**specs, "more": "w"},
        error=error,
        seconds=1,
    )
    who = replace(author.current(), loginuid=None, uid=0, sudo_user="a" * 64)
    told = entry.Record(entry=done, author=who, command="c" * 999, pid=1, at=0)
    assert f"; by {who.name}: c" in told.line[: datagram.LONGEST]


def test_two_threads_make_changes_of_their_own(log: Logs, tmp_path: Path) -> None:
    """What one has recorded ends with its own block."""

    def make(name: str) -> None:
        with record_changes(policy=Policy(), command=name):
            inside.wait()
            provision(Order(destination=tmp_path / name, virtual_size=1 << 20))

    inside = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, ("one", "two")))
    made = {(one["COMMAND"], Path(one["DISK"]).name) for one in log.records()}
    assert made == {("one", "one"), ("two", "two")}


@pytest.mark.qemu
def test_the_image_cache_is_changed_by_what_is_added_and_pruned(
    log: Logs, tmp_path: Path
) -> None:
    base, disk = tmp_path / "base.vmdk", tmp_path / "disk"
    images.qemu_img("create", "-q", "-f", "vmdk", base, "1M")
    done("provision", disk, "--base", base, "--strategy", "performance")
    added, _ = log.records()
    done("cache", "prune", tmp_path)
    (pruned,) = log.records()
    assert (added["OPERATION"], pruned["OPERATION"]) == ("cache add", "cache prune")
    assert added["FILE"] == pruned["FILE"]
    assert json.loads(added["AFTER"])["source"] == str(base)
    assert "AFTER" not in pruned
    done("cache", "prune", tmp_path)
    assert not log.records()


@pytest.mark.system
def test_the_hook_is_changed_by_what_installs_and_removes_it(log: Logs) -> None:
    with plugin.directory() as place:
        hook = ("--hooks-directory", place / "qemu.d")
        for verb, outcome in (
            ("install", "installed"),
            ("install", "unchanged"),
            ("uninstall", "removed"),
            ("uninstall", "unchanged"),
        ):
            words = ("libvirt", f"{verb}-hook", *hook, "-f", "json")
            assert allocpolicy(*words).document["outcome"] == outcome
            records = [one["OPERATION"] for one in log.records()]
            is_changed = outcome != "unchanged"
            assert records == [f"libvirt {verb}-hook"] * is_changed


def test_the_file_for_nova_is_changed_once(log: Logs, tmp_path: Path) -> None:
    """Nova reads the same whatever is measured each time, which is in comments.

    A FIFO in its place is refused, and nobody waits for it.
    """
    file = tmp_path / "nova.yaml"
    words = ("nova", "provider-config", tmp_path, "--output")
    done(*words, file)
    (record,) = log.records()
    assert record["FILE"] == str(file)
    file.write_text(f"{file.read_text()}#   of that time: 4 MiB of holes\n")
    content, inode = file.read_bytes(), file.stat().st_ino
    done(*words, file)
    assert (file.read_bytes(), file.stat().st_ino) == (content, inode)
    assert not log.records()
    file.chmod(0o600)
    done(*words, file)
    assert [one["FILE"] for one in log.records()] == [str(file)]
    os.mkfifo(tmp_path / "fifo")
    assert allocpolicy(*words, tmp_path / "fifo").status == 2
    assert not log.records()


def test_syslog_is_told_where_there_is_no_journal(log: Logs, tmp_path: Path) -> None:
    log.journal.close()
    done("provision", tmp_path / "disk", *SIZE)
    (line,) = log.lines()
    head = f"<30>allocpolicy[{os.getpid()}]: provision {tmp_path}/disk: nothing -> none"
    assert line.startswith(head)


def test_syslog_is_told_where_the_journal_can_not_be(
    log: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a confined process may use only the other's socket."""
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setattr(datagram, "JOURNAL", str(tmp_path / "loop"))
    done("provision", tmp_path / "disk", *SIZE)
    assert len(log.lines()) == 1


def test_a_syslog_that_takes_streams_gets_each_line(
    log: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As syslog-ng's unix-stream; glibc's syslog(3) does the same."""
    log.journal.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.bind(str(tmp_path / "stream"))
        daemon.listen()
        monkeypatch.setattr(datagram, "SYSLOG", str(tmp_path / "stream"))
        done("provision", tmp_path / "disk", *SIZE)
        with daemon.accept()[0] as told:
            line = told.recv(4096).decode()
    assert line.startswith("<30>allocpolicy[")
    assert line.endswith(f"provision {tmp_path}/disk {' '.join(SIZE)}\0")


@pytest.mark.parametrize(
    ("place", "told"),
    [("auto", (1, 0)), ("journal", (1, 0)), ("syslog", (0, 1)), ("none", (0, 0))],
)
def test_the_operator_says_where(
    log: Logs, tmp_path: Path, place: str, told: tuple[int, int]
) -> None:
    done("provision", tmp_path / "disk", *SIZE, OS_ALLOCPOLICY__CHANGE_LOG=place)
    assert (len(log.records()), len(log.lines())) == told


def test_a_log_that_takes_nothing_more_delays_and_fails_no_change(
    log: Logs, tmp_path: Path
) -> None:
    """A sender that waited would do so for ever: nobody reads."""
    while datagram.send("full"):
        pass
    done("provision", tmp_path / "disk", *SIZE)
    assert {one["MESSAGE"] for one in log.records()} == {"full"}
    assert not log.lines()


def test_without_any_log_changes_are_made_all_the_same(
    log: Logs, tmp_path: Path
) -> None:
    log.journal.close()
    log.syslog.close()
    done("provision", tmp_path / "disk", *SIZE)


def test_whoever_is_told_and_fails_fails_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's own handler, and what gets the record of a command."""
    logger, told = logging.getLogger(telling.LOGGER), []
    monkeypatch.setattr(logger, "level", logging.INFO)

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append("handler")
            raise RuntimeError("it is broken")

    def broken(record: entry.Record) -> None:
        told.append("receiver")
        raise RuntimeError("it is broken")

    broken_handler = Broken()
    order = Order(destination=tmp_path / "disk", virtual_size=1 << 20)
    logger.addHandler(broken_handler)
    try:
        with telling.told_to(broken, command="make a disk"):
            provision(order, policy=Policy())
    finally:
        logger.removeHandler(broken_handler)
    assert told == ["receiver", "handler"]
    assert (tmp_path / "disk").exists()


def test_json_is_one_object_a_line(log: Logs, tmp_path: Path) -> None:
    """On stderr, or at the end of the log file; in the journal all the same."""
    disk, file = tmp_path / "disk", tmp_path / "changes"
    told = allocpolicy("--log-json", "-v", "provision", disk, *SIZE).stderr
    for size in ("2M", "3M"):
        words = ("--log-json", "--log-file", file, "resize", disk, size)
        assert allocpolicy(*words).stderr == ""
    lines = [*told.splitlines(), *file.read_text().splitlines()]
    created, *grown = map(json.loads, lines)
    for one in (created, *grown):
        assert not schema.validate(one, schema=schema.load("change"))
    assert (created["disk"], created["before"]) == (str(disk), None)
    assert [one["after"]["virtual_size"] >> 20 for one in grown] == [2, 3]
    assert [one["before"]["virtual_size"] >> 20 for one in grown] == [1, 2]
    assert len(log.records()) == 3


@pytest.mark.parametrize("verbosity", ["-v", "-vv"])
def test_more_words_are_our_own(log: Logs, tmp_path: Path, verbosity: str) -> None:
    told = allocpolicy(verbosity, "provision", tmp_path / "disk", *SIZE)
    assert told.stderr.splitlines() == [log.records()[0]["MESSAGE"]]


@pytest.mark.parametrize(
    ("name", "shown"), [("stevedore.named", False), ("acme", True)]
)
def test_of_others_only_what_a_plugin_warns_of_is_shown(
    name: str, *, shown: bool
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    hide_libraries(handler, verbose=True)
    for level in (logging.INFO, logging.WARNING):
        handler.handle(logging.LogRecord(name, level, "", 0, "odd", None, None))
    assert stream.getvalue() == ("odd\n" if shown else "")


def test_a_failure_is_told_once_to_who_is_there(
    log: Logs, tmp_path: Path, failing: Path
) -> None:
    words = ("--strategy", "failing", "--plugin", failing)
    told = allocpolicy("provision", tmp_path / "disk", *SIZE, *words)
    assert told.stderr.count("\n") == 1
    assert log.records()


def test_sudo_tells_who_called_it_and_a_user_only_claims_to_be_another() -> None:
    ours = author.current()
    for uid, name in ((0, "alice"), (ours.uid or 1, None)):
        one = author.Author(uid=uid, euid=0, loginuid=None, sudo_user="alice")
        assert (one.name == "alice") is (name == "alice")


@pytest.mark.system
def test_who_logged_in_is_told_whoever_they_have_become(
    log: Logs, tmp_path: Path
) -> None:
    """Audit's word counts more than the environment's."""
    script = """
import sys
try:
    open("/proc/self/loginuid", "w").write("1")
except OSError:
    sys.exit(77)
from allocpolicy.log import datagram
datagram.JOURNAL = sys.argv.pop(1)
from allocpolicy.cli.program import run
sys.exit(run())
"""
    command = (sys.executable, "-c", script, datagram.JOURNAL)
    ended = subprocess.run(
        [*command, "provision", str(tmp_path / "disk"), *SIZE],
        env=environment(SUDO_USER="alice"),
        check=False,
        capture_output=True,
    )
    if ended.returncode == 77:
        pytest.skip("the kernel has no audit, or this is no root of it")
    (record,) = log.records()
    assert (record["USER"], record["LOGINUID"], record["UID"]) == ("daemon", "1", "0")
    assert record["SUDO_USER"] == "alice"


def test_another_program_gets_what_it_has_asked_logging_for(
    log: Logs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing else is told: where its own log goes is its own business."""
    caplog.set_level(logging.INFO, logger=telling.LOGGER)
    order = Order(destination=tmp_path / "disk", virtual_size=1 << 20)
    provision(order, policy=Policy())
    with pytest.raises(InvalidRequest):
        provision(order, policy=Policy())
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    change = vars(record)["change"]
    assert not schema.validate(change, schema=schema.load("change"))
    assert change["disk"] == str(order.destination)
    assert change["command"] == os.path.basename(sys.argv[0])
    assert not log.records()
    with record_changes(policy=Policy(), command="make disks"):
        provision(replace(order, destination=tmp_path / "other"), policy=Policy())
    assert [one["COMMAND"] for one in log.records()] == ["make disks"]


def test_a_program_without_handlers_prints_nothing(
    tmp_path: Path, failing: Path
) -> None:
    """Python prints errors for which there is no handler: these are none of its own."""
    script = """
import logging, sys
from allocpolicy import Order, Policy, StrategyFailed, provision
from allocpolicy.registry import plugin_file
from pathlib import Path
order = Order(
    destination=Path(sys.argv[1], "disk"),
    virtual_size=1 << 20,
    extra_specs={"allocpolicy:strategy": "failing"},
)
with plugin_file.registered([Path(sys.argv[2])]):
    try:
        provision(order, policy=Policy())
    except StrategyFailed:
        print("failed", end="")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path, failing],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert (ended.stdout, ended.stderr) == ("failed", "")
