"""install-hook, uninstall-hook and status, as operators use them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import __version__
from allocpolicy.libvirt import health, stub
from allocpolicy.libvirt.health import Finding, State
from allocpolicy.libvirt.installation import NAME
from tests.harness import hook_files
from tests.harness.cli import Finished, allocpolicy
from tests.libvirt.conftest import Start

# A daemon of this machine's doesn't count.
pytestmark = pytest.mark.usefixtures("run_directory")


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """Return libvirt's directory of hooks, which is yet to be made."""
    (tmp_path / "libvirt").mkdir(mode=0o755)
    return tmp_path / "libvirt" / "hooks" / "qemu.d"


def run(command: str, hooks: Path, *arguments: str) -> Finished:
    where = ("--hooks-directory", hooks, "-f", "json")
    return allocpolicy("libvirt", command, *where, *arguments)


def installed(hooks: Path, *arguments: str) -> dict[str, Any]:
    done = run("install-hook", hooks, *arguments)
    assert done.status == 0, done.stderr
    found: dict[str, Any] = done.document
    return found


def states(hooks: Path) -> tuple[int, dict[str, str]]:
    """Return the exit status, and the state of each thing that was looked at."""
    done = run("status", hooks)
    return done.status, {row["subject"]: row["state"] for row in done.document}


def test_what_is_installed_is_in_force_and_starts_this_allocpolicy(hooks: Path) -> None:
    """The file is run as libvirt would run it."""
    first = installed(hooks)
    assert first["hook"] == str(hooks / NAME)
    assert (first["outcome"], installed(hooks)["outcome"]) == ("installed", "unchanged")
    done = hook_files.run(hooks / NAME, stub.ASKS_VERSION)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)
    status, found = states(hooks)
    assert status == 0
    needed = ("hook", "python", "trust", "daemon")
    assert {found[subject] for subject in needed} == {"ok"}
    assert run("uninstall-hook", hooks).document["outcome"] == "removed"
    assert run("uninstall-hook", hooks).document["outcome"] == "unchanged"
    assert states(hooks) == (1, {"hook": "wrong"})


def test_people_see_whether_it_is_in_force(hooks: Path) -> None:
    """What the rows come to is the last line; programs have the rows alone."""
    place, hook = ("--hooks-directory", hooks), hooks / NAME
    for command, said in (
        ("status", f"{hook}: not in force: hook.\n"),
        ("install-hook", ""),
        ("status", f"{hook}: in force.\n"),
        ("uninstall-hook", ""),
    ):
        shown = allocpolicy("libvirt", command, *place)
        first = shown.stdout.splitlines()[0]
        assert shown.stderr == said
        assert first.split()[0] == ("STATE" if said else str(hook))
    assert run("status", hooks).stderr == ""


def test_the_remedy_for_a_hook_works(hooks: Path) -> None:
    """It is typed as it is told: for that directory, and with what was chosen."""
    chosen = ("--on-missing", "fail")
    installed(hooks, *chosen)
    (hooks / NAME).chmod(0o644)
    [why] = (
        one["reason"]
        for one in run("status", hooks).document
        if one["subject"] == "hook"
    )
    remedy = shlex.split(why.split("run 'allocpolicy ")[1].rstrip("'"))
    assert allocpolicy(*remedy).status == 0
    assert states(hooks)[0] == 0
    settings = stub.settings_of((hooks / NAME).read_bytes())
    assert settings is not None
    assert settings.on_missing == "fail"


@pytest.mark.parametrize("on_missing", ["pass", "fail"])
def test_the_operator_says_what_becomes_of_a_vm_without_python(
    hooks: Path, on_missing: str
) -> None:
    """And may say otherwise later."""
    installed(hooks, "--on-missing", "fail" if on_missing == "pass" else "pass")
    assert installed(hooks, "--on-missing", on_missing)["outcome"] == "replaced"
    settings = stub.settings_of((hooks / NAME).read_bytes())
    assert settings is not None
    assert settings.on_missing == on_missing
    assert states(hooks)[0] == 0


def not_executable(hook: Path) -> None:
    hook.chmod(0o644)


def changed_by_hand(hook: Path) -> None:
    hook.write_bytes(hook.read_bytes() + b"exit 1\n")


def cut(hook: Path) -> None:
    hook.write_bytes(b"\n".join(hook.read_bytes().splitlines()[:3]))


def of_another_version(hook: Path) -> None:
    settings = stub.settings_of(hook.read_bytes())
    assert settings is not None
    hook_files.write(hook, settings, version="0.0.1")


def of_another_python(hook: Path) -> None:
    settings = stub.settings_of(hook.read_bytes())
    assert settings is not None
    hook_files.write(hook, settings, interpreter="/usr/bin/none")


def writable_by_others(hook: Path) -> None:
    hook.chmod(0o757)


def somebody_elses(hook: Path) -> None:
    hook.write_text("#!/bin/sh\n")


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (not_executable, {"hook", "python"}),
        (changed_by_hand, {"hook"}),
        (cut, {"hook"}),
        (of_another_version, {"hook"}),
        (of_another_python, {"hook", "python", "trust"}),
        (writable_by_others, {"python", "trust"}),
        (somebody_elses, {"hook"}),
    ],
)
def test_status_says_what_is_wrong_and_installing_again_mends_it(
    hooks: Path, spoil: Callable[[Path], None], wrong: set[str]
) -> None:
    """But what is somebody else's."""
    installed(hooks)
    spoil(hooks / NAME)
    status, found = states(hooks)
    assert status == 1
    assert {subject for subject, state in found.items() if state == "wrong"} >= wrong
    again = run("install-hook", hooks)
    assert (again.status == 2) == (spoil is somebody_elses)
    if spoil is not somebody_elses:
        assert states(hooks)[0] == 0


def test_a_directory_that_others_may_write_to_is_wrong(hooks: Path) -> None:
    """Also one that became so."""
    installed(hooks)
    hooks.chmod(0o777)
    status, found = states(hooks)
    assert (status, found["trust"]) == (1, "wrong")


def test_a_daemon_that_may_not_know_is_told(hooks: Path, start: Start) -> None:
    """Until then the command that does it is printed, and status isn't content."""
    hooks.mkdir(parents=True)
    process = start("libvirtd")
    said = installed(hooks)["daemon"]
    assert f"kill -HUP {process.pid}" in said
    status, found = states(hooks)
    assert (status, found["daemon"]) == (1, "unknown")
    again = installed(hooks, "--reload")
    assert (again["outcome"], "was told" in again["daemon"]) == ("unchanged", True)
    assert process.stdout
    assert process.stdout.readline() == "told\n"
    status, found = states(hooks)
    assert (status, found["daemon"]) == (0, "ok")


def test_what_cannot_be_known_of_the_daemons_confinement_is_not_wrong() -> None:
    """As when it doesn't run; whether it knows of the hook decides."""

    def found(subject: str, state: State) -> Finding:
        return Finding(subject=subject, state=state, reason="")

    fine = found("hook", State.OK)
    assert health.is_in_force([fine, found("selinux", State.UNKNOWN)])
    assert not health.is_in_force([fine, found("selinux", State.WRONG)])
    assert not health.is_in_force([fine, found("daemon", State.UNKNOWN)])
