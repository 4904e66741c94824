"""Whether libvirt's daemon runs the hook, and telling it: processes with its name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from allocpolicy.libvirt import daemon
from allocpolicy.libvirt.daemon import Daemon
from tests.harness.patience import PATIENCE
from tests.libvirt.conftest import Start


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    """Return a hook, alone in its directory."""
    path = tmp_path / "hooks" / "qemu.d" / "50-allocpolicy"
    path.parent.mkdir(parents=True)
    program(path)
    return path


def program(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def only(hook: Path) -> Daemon:
    (found,) = daemon.running(hook.parent)
    return found


@pytest.mark.parametrize("name", daemon.NAMES)
def test_a_daemon_is_found_by_the_number_that_it_left(
    start: Start, hook: Path, name: str
) -> None:
    """Both of them are looked for."""
    process = start(name)
    found = only(hook)
    assert (found.name, found.pid) == (name, process.pid)
    assert abs(found.started - time.time()) < PATIENCE


def test_a_number_that_is_another_programs_by_now_is_no_daemon(
    start: Start, run_directory: Path, hook: Path
) -> None:
    """Nor is what isn't a number, or isn't there."""
    start("sleep", said="libvirtd")
    (run_directory / "virtqemud.pid").write_text("none\n")
    assert daemon.running(hook.parent) == ()
    (run_directory / "virtqemud.pid").write_text("")
    assert daemon.running(hook.parent) == ()


def test_an_upgraded_daemon_is_still_one(
    start: Start, tmp_path: Path, hook: Path
) -> None:
    """Its program is gone, and another is in its place."""
    process = start("libvirtd")
    (tmp_path / "sbin" / "libvirtd").unlink()
    assert only(hook).pid == process.pid


def test_a_daemon_that_sees_another_directory_is_not_told(
    tmp_path: Path, start: Start
) -> None:
    """As one in a container does, or none at all."""
    start("libvirtd")
    assert daemon.running(tmp_path / "none") == ()


def test_it_is_told_and_that_is_known_afterwards(start: Start, hook: Path) -> None:
    """As long as it is the same process."""
    process = start("libvirtd")
    program(hook)
    assert daemon.knows(only(hook), hook) is None
    daemon.tell(only(hook), hook)
    assert process.stdout
    assert process.stdout.readline() == "told\n"
    assert "told" in (daemon.knows(only(hook), hook) or "")
    program(hook.with_name("new"))
    os.replace(hook.with_name("new"), hook)
    assert daemon.knows(only(hook), hook) is None


def test_one_that_ended_meanwhile_is_not_told(start: Start, hook: Path) -> None:
    """Its number may be another process's."""
    process = start("libvirtd")
    found = only(hook)
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        daemon.tell(found, hook)


def test_one_that_is_another_process_by_now_is_not_told(
    start: Start, hook: Path
) -> None:
    """The same number, the same program, another start."""
    process = start("libvirtd")
    found = only(hook)
    other = Daemon(name=found.name, pid=found.pid, ticks=found.ticks - 1)
    with pytest.raises(ProcessLookupError):
        daemon.tell(other, hook)
    process.kill()
    assert process.stdout
    assert process.stdout.read() == ""


def test_one_that_was_started_since_knows(start: Start, hook: Path) -> None:
    """It found the hook when it started."""
    start("libvirtd")
    assert "started since" in (daemon.knows(only(hook), hook) or "")


def test_one_that_found_another_hook_looks_at_each_start(
    start: Start, hook: Path
) -> None:
    """Beside ours, or CloudStack's above; what isn't run doesn't count."""
    hook.with_name("directory").mkdir()
    hook.with_name("text").write_text("")
    (hook.parent.parent / "network").touch(mode=0o755)
    start("libvirtd")
    program(hook)
    assert daemon.knows(only(hook), hook) is None
    program(hook.with_name("10-later"))
    assert daemon.knows(only(hook), hook) is None


@pytest.mark.parametrize("name", ["qemu", "qemu.d/10-other"])
def test_other_hooks_that_it_found(start: Start, hook: Path, name: str) -> None:
    """They were there when it started."""
    other = hook.parent.parent / name
    program(other)
    start("libvirtd")
    program(hook)
    assert str(other) in (daemon.knows(only(hook), hook) or "")


def test_names_of_processes_may_hold_anything(start: Start, hook: Path) -> None:
    """proc_pid_stat(5) has them in parentheses, before the time of the start."""
    process = start("libvirtd")
    before = only(hook)
    for name in (") 1 (", "a b", "((("):
        print(name, file=process.stdin, flush=True)
        assert process.stdout
        assert process.stdout.readline() == "named\n"
        assert only(hook) == before
