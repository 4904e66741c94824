"""The tracer does to a call what it says, and counts no call twice or not at all."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.calls import Action, Call, Fault
from tests.faults.tracing import Commands, Ended, commands
from tests.harness.images import MIB

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def traced() -> Iterator[Commands]:
    with commands() as running:
        yield running


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(MIB)
    return ["inspect", str(disk), "--format", "raw", "-f", "json"]


def first(ended: Ended, name: str) -> Call:
    return next(call for call in ended.calls if call.name == name)


def test_calls_are_counted_the_same_each_time(
    traced: Commands, arguments: list[str], tmp_path: Path
) -> None:
    traced.learn(arguments)
    runs = [traced.run(arguments, below=tmp_path) for _ in range(3)]
    told = [[(call.name, call.number, call.path) for call in run.calls] for run in runs]
    assert told[0] == told[1] == told[2]
    assert {call.path for call in runs[0].calls} >= {arguments[1]}


def test_a_call_that_fails_is_not_made(
    traced: Commands, arguments: list[str], tmp_path: Path
) -> None:
    call = first(traced.run(arguments, below=tmp_path), "openat")
    fault = Fault(action=Action.FAIL, value=errno.EIO)
    ended = traced.run(arguments, below=tmp_path, call=call, fault=fault)
    assert ended.injected
    assert (ended.injected.name, ended.injected.number) == (call.name, call.number)
    assert ended.status != 0
    assert os.strerror(errno.EIO) in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_reaches_the_command_at_the_call(
    traced: Commands, arguments: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    call = first(traced.run(arguments, below=tmp_path), "openat")
    fault = Fault(action=Action.SIGNAL, value=number)
    ended = traced.run(arguments, below=tmp_path, call=call, fault=fault)
    assert ended.status == {signal.SIGINT: 130, signal.SIGKILL: None}[number]


def test_half_of_a_write_is_written(traced: Commands, tmp_path: Path) -> None:
    """And the command writes the other half: the kernel really wrote the first."""
    disk = tmp_path / "disk"
    words = ["provision", str(disk), "--size", str(MIB), "--strategy", "performance"]
    whole = traced.run(words, below=tmp_path)
    expected = disk.read_bytes()
    longest = max(
        (call for call in whole.calls if call.name == "pwrite64"),
        key=lambda call: call.arguments[2],
    )
    disk.unlink()
    ended = traced.run(
        words, below=tmp_path, call=longest, fault=Fault(action=Action.SHORTEN)
    )
    assert ended.injected
    assert ended.status == 0, ended.stderr
    writes = [call for call in ended.calls if call.name == "pwrite64"]
    assert len(writes) == 1 + sum(call.name == "pwrite64" for call in whole.calls)
    assert disk.read_bytes() == expected
