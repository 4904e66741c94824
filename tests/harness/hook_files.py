"""Hooks of libvirt whose Python finds an allocpolicy of the tests' own."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from allocpolicy.libvirt import stub
from allocpolicy.libvirt.stub import OnMissing, Settings

# It tells what it was given; its output must go nowhere.
ENTRY = """
import json, os, sys

def run():
    with open(os.environ["WITNESS"], "w") as file:
        json.dump([sys.argv[1:], sys.stdin.read(), sys.flags.no_site], file)
    print("noise")
    os.write(1, b"noise")
    sys.exit(int(os.environ.get("STATUS", "0")))
"""
VERSION = "7.7.7"  #: of that allocpolicy


def make(
    place: Path, *, entry: str = ENTRY, on_missing: OnMissing = OnMissing.PASS
) -> tuple[Path, Settings]:
    """Make a hook, its Python and its allocpolicy in a directory; return the hook."""
    package = place / "modules" / "allocpolicy"
    (package / "libvirt").mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = {VERSION!r}")
    (package / "libvirt" / "__init__.py").write_text("")
    (package / "libvirt" / "entry.py").write_text(entry)
    (package / "libvirt" / "start.py").write_text("")
    interpreter = place / "python"
    interpreter.symlink_to(os.path.realpath(sys.executable))
    settings = Settings(
        version=VERSION,
        interpreter=str(interpreter),
        stdlib=os.__file__,
        package=str(package / "__init__.py"),
        paths=(str(package.parent),),
        site=False,
        on_missing=on_missing,
    )
    return write(place / "hook", settings), settings


def write(hook: Path, settings: Settings, **changes: object) -> Path:
    """Write the hook that these settings make, with some of them changed."""
    changed = dataclasses.replace(settings, **changes)  # type: ignore[arg-type]
    hook.write_bytes(stub.content(changed))
    hook.chmod(0o755)
    return hook


def run(
    hook: Path,
    *arguments: str,
    shell: Sequence[str] = (),
    stdin: str = "",
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a hook with nothing in its environment but these variables."""
    return subprocess.run(
        [*shell, str(hook), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=variables,
        cwd="/",
    )
