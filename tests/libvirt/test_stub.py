"""The hook's file: what it starts, and that it ends at once where it must."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.libvirt import stub
from allocpolicy.libvirt.stub import OnMissing, Settings
from tests.harness import hook_files
from tests.harness.filesystems import require_program
from tests.harness.patience import PATIENCE

# virHookQemuOpType and virHookSubopType in libvirt's src/util/virhook.c
OPERATIONS = (
    *("start", "stopped", "prepare", "release", "migrate", "started"),
    *("reconnect", "attach", "restore"),
)
OURS = {("prepare", "begin"), ("migrate", "begin"), ("restore", "begin")}
OTHERS = [
    (operation, part)
    for operation in OPERATIONS
    for part in ("-", "begin", "end")
    if (operation, part) not in OURS
]
SHELLS = ((), ("bash", "--posix"), ("busybox", "sh"))
ODD = (
    "a place",
    "it's",
    'a "quoted" one',
    "a\nline",
    "a=b",
    "$HOME `id` $(id) \\ \\n",
    "-c",
    "*?[a]{b}#;&|<>~!%",
    "Größe",
    os.fsdecode(b"\xff\xfe"),
)


def shell_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command of a shell, whose environment will be empty."""
    return (require_program(words[0]), *words[1:]) if words else ()


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: " ".join(words) or "sh")
@pytest.mark.parametrize(("operation", "part"), OTHERS)
def test_all_other_operations_succeed_whatever_is_broken(
    tmp_path: Path, shell: tuple[str, ...], operation: str, part: str
) -> None:
    """Neither Python nor allocpolicy is there, and what else is in the file is broken.

    A failure at ``reconnect`` would kill a VM that runs.
    """
    hook, settings = hook_files.make(tmp_path, on_missing=OnMissing.FAIL)
    hook_files.write(hook, settings, interpreter="/none", stdlib="/none")
    head, esac, _ = hook.read_text().partition("esac\n")
    hook.write_text(f"{head}{esac}fi )) 'broken\n")
    shutil.rmtree(tmp_path / "modules")
    done = hook_files.run(hook, "vm", operation, part, "-", shell=shell_of(shell))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: " ".join(words) or "sh")
@pytest.mark.parametrize(("operation", "part"), sorted(OURS))
@pytest.mark.parametrize("status", [0, 3])
def test_three_operations_are_allocpolicys(
    tmp_path: Path, shell: tuple[str, ...], operation: str, part: str, status: int
) -> None:
    """It gets the arguments and the XML; its status is the hook's, its output nobody's.

    Output would become the domain's XML, at migrate and restore.
    """
    hook, _ = hook_files.make(tmp_path)
    witness, arguments = tmp_path / "witness", ["-vm 'x' \n$y", operation, part, "-"]
    done = hook_files.run(
        hook,
        *arguments,
        shell=shell_of(shell),
        stdin="<domain/>",
        WITNESS=str(witness),
        STATUS=str(status),
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert json.loads(witness.read_text()) == [arguments, "<domain/>", 1]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_paths_may_have_any_character(tmp_path: Path, name: str) -> None:
    """Those of Python, of allocpolicy and of its modules."""
    place = tmp_path / name
    place.mkdir()
    hook, settings = hook_files.make(place)
    witness = tmp_path / "witness"
    done = hook_files.run(hook, "vm", "prepare", "begin", "-", WITNESS=str(witness))
    assert (done.returncode, done.stderr) == (0, "")
    assert witness.exists()
    missing = hook_files.write(hook, settings, package=f"{place}/none")
    done = hook_files.run(missing, "--version")
    assert (done.returncode, len(done.stderr.splitlines())) == (5, 1)


CONTENTS = {
    "package is empty": ("__init__.py", ""),
    "syntax": ("libvirt/entry.py", "a newer: Python's\n"),
    "dependency": ("libvirt/entry.py", "import none_of_that_name"),
}


def broken(what: str, hook: Path, settings: Settings) -> None:
    """Take away what a hook needs, as upgrades do."""
    package = Path(settings.package).parent
    match what:
        case "standard library":
            hook_files.write(hook, settings, stdlib="/usr/lib/python3.0/os.py")
        case "package":
            shutil.rmtree(package)
        case "entry":
            (package / "libvirt" / "entry.py").unlink()
        case _ if what in CONTENTS:
            name, text = CONTENTS[what]
            (package / name).write_text(text)
        case _:
            broken_python(what, Path(settings.interpreter))


def broken_python(what: str, interpreter: Path) -> None:
    interpreter.unlink()
    match what:
        case "python's permission":
            interpreter.write_text("")
        case "python is empty":
            interpreter.touch(mode=0o755)
        case "python is a directory":
            interpreter.mkdir()


WHAT = (
    *("python", "python's permission", "python is empty", "python is a directory"),
    *("standard library", "package", "package is empty"),
    *("entry", "syntax", "dependency"),
)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("on_missing", list(OnMissing))
def test_where_python_or_allocpolicy_is_missing_the_operator_decides(
    tmp_path: Path, what: str, on_missing: OnMissing
) -> None:
    """The start goes on, or fails with one line."""
    hook, settings = hook_files.make(tmp_path, on_missing=on_missing)
    broken(what, hook, settings)
    done = hook_files.run(hook, "vm" * 120, "prepare", "begin", "-")
    lines = done.stderr.splitlines()
    if on_missing is OnMissing.PASS:
        assert (done.returncode, lines) == (0, [])
    else:
        assert done.returncode == 5
        assert len(lines) == 1
        assert lines[0].startswith("allocpolicy: ")
        assert len(lines[0]) <= 300


@pytest.mark.system
@pytest.mark.parametrize("what", WHAT)
def test_it_is_logged_that_the_policy_was_not_applied(
    tmp_path: Path, what: str
) -> None:
    """A VM that starts without its policy has a line in syslog, with its name."""
    if os.geteuid() != 0:
        pytest.skip("a /dev of the test's own takes root")
    hook, settings = hook_files.make(tmp_path)
    broken(what, hook, settings)
    devices = tmp_path / "dev"
    devices.mkdir()
    os.mknod(devices / "null", 0o20666, os.makedev(1, 3))
    os.mknod(devices / "urandom", 0o20666, os.makedev(1, 9))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(devices / "log"))
        log.settimeout(PATIENCE)
        script = 'mount --bind "$1" /dev && exec "$2" vm prepare begin -'
        subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", devices, hook],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        line = log.recv(4096).decode()
    assert "allocpolicy: " in line
    assert "; domain vm: it starts without its policy" in line


@pytest.mark.parametrize("what", ["python", "package", "entry"])
def test_what_is_said_is_short_wherever_it_is(tmp_path: Path, what: str) -> None:
    """The end of a path tells the most."""
    place = tmp_path.joinpath("a" * 200, "b" * 200)
    place.mkdir(parents=True)
    hook, settings = hook_files.make(place, on_missing=OnMissing.FAIL)
    broken(what, hook, settings)
    done = hook_files.run(hook, "vm", "prepare", "begin", "-")
    assert done.returncode == 5
    assert len(done.stderr) <= 300


def test_it_tells_the_version_that_it_would_start(tmp_path: Path) -> None:
    """The file itself is run, as libvirt runs it, up to the hook's own code."""
    hook, settings = hook_files.make(tmp_path)
    done = hook_files.run(hook, stub.ASKS_VERSION)
    assert (done.returncode, done.stdout.strip()) == (0, hook_files.VERSION)
    for what in ("syntax", "package"):
        broken(what, hook, settings)
        done = hook_files.run(hook, stub.ASKS_VERSION)
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1


def test_with_the_search_for_modules_python_has_its_own_paths(tmp_path: Path) -> None:
    """Then no path is added to those that Python finds by itself."""
    hook, settings = hook_files.make(tmp_path)
    hook_files.write(hook, settings, site=True)
    done = hook_files.run(hook, stub.ASKS_VERSION)
    assert done.stdout.strip() != hook_files.VERSION


TEXT = st.text(st.characters(exclude_characters="\0"), min_size=1)


@given(TEXT, TEXT, st.lists(TEXT), st.sampled_from(OnMissing))
def test_what_a_file_says_of_itself_is_what_it_was_made_of(
    path: str, version: str, paths: list[str], on_missing: OnMissing
) -> None:
    """So that status can tell what has changed since."""
    settings = Settings(
        version=version,
        interpreter=path,
        stdlib=path,
        package=path,
        paths=tuple(paths),
        site=False,
        on_missing=on_missing,
    )
    try:
        content = stub.content(settings)
    except UnicodeEncodeError:  # lone surrogates that are no bytes of a path
        return
    assert stub.is_ours(content)
    assert stub.settings_of(content) == settings


@given(st.binary() | st.binary().map(lambda text: b"#!/bin/sh\n# allocpolicy" + text))
def test_what_others_wrote_is_not_ours(content: bytes) -> None:
    """Only the second line tells."""
    assert not stub.is_ours(content)
    assert stub.settings_of(content) is None


@pytest.mark.system
@pytest.mark.parametrize("name", ["usual", *ODD], ids=ascii)
@pytest.mark.parametrize("on_missing", list(OnMissing))
def test_shellcheck_has_nothing_to_say(
    tmp_path: Path, name: str, on_missing: OnMissing
) -> None:
    """The file is clean sh, whatever the paths are."""
    place = tmp_path / name
    place.mkdir()
    hook, _ = hook_files.make(place, on_missing=on_missing)
    done = subprocess.run(
        [require_program("shellcheck"), "--shell=sh", hook],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
