"""How the hook starts Python: which one, and where it finds modules.

Python's own search for modules (the module site, with its .pth files) takes longer than
all the rest of its start. The hook does without it if plain directories have everything
that it needs; whether they do is found by starting Python both ways.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import allocpolicy
from allocpolicy.errors import CommandError, InvalidRequest
from allocpolicy.libvirt.stub import OnMissing, Settings

_LONGEST = 60  # seconds
_MODULES = ("jsonschema", "numpy", "oslo_config", "oslo_utils", "stevedore", "yaml")

# It prints the same if the same modules are found. Strategies are imported: what they
# import is found as well, or the error is the same.
_PROBE = """\
import sys
before = set(sys.path)
if {site}:
    import site
    site.main()
sys.path += {paths}
import importlib.metadata, importlib.util, json, os

def place(module):
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        return None
    return found and found.origin

def strategy(entry_point):
    try:
        entry_point.load()
    except Exception as error:
        return type(error).__name__
    return place(entry_point.module)

strategies = importlib.metadata.entry_points(group="allocpolicy.strategies")
modules = ("allocpolicy", *{modules})
print("\\0" + json.dumps([
    [one for one in sys.path if one not in before],
    {{
        "stdlib": os.__file__,
        "modules": {{one: place(one) for one in modules}},
        "strategies": sorted(
            [one.name, one.value, one.dist.name, one.dist.version, strategy(one)]
            for one in strategies
        ),
    }},
]))
"""


def settings(*, on_missing: OnMissing) -> Settings:
    """Return what the hook's file must hold for the Python that runs this.

    :raises InvalidRequest: when that Python has no allocpolicy by itself.
    :raises CommandError: when it can't be started anew.
    """
    beyond, by_itself = _probed(site=True, paths=())
    if by_itself["modules"]["allocpolicy"] is None:
        raise InvalidRequest(
            f"{sys.executable} has no allocpolicy of its own: it is imported from the"
            " current directory, or by PYTHONPATH, which libvirt's daemon has not;"
            " install it"
        )
    paths = tuple(one for one in beyond if os.path.isdir(one))
    _, without_site = _probed(site=False, paths=paths)
    return Settings(
        version=allocpolicy.__version__,
        interpreter=sys.executable,
        stdlib=by_itself["stdlib"],
        package=by_itself["modules"]["allocpolicy"],
        paths=paths,
        site=without_site != by_itself,
        on_missing=on_missing,
    )


def _probed(*, site: bool, paths: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return what sys.path has beyond the standard library, and what is found."""
    code = _PROBE.format(site=site, paths=ascii(list(paths)), modules=ascii(_MODULES))
    done = run([sys.executable, "-I", "-S", "-c", code])
    beyond, found = json.loads(done.rpartition("\0")[2])
    return beyond, found


def run(command: Sequence[str]) -> str:
    """Return what a command prints that starts Python as the hook does.

    :raises CommandError: when it fails, or doesn't end.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd="/",
            encoding="utf-8",
            errors="replace",
            timeout=_LONGEST,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(tuple(command[:1]), 127, str(error)) from error
    if done.returncode:
        raise CommandError(tuple(command[:1]), done.returncode, done.stderr)
    return done.stdout
