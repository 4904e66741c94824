"""The policy of the default configuration, remembered from when it was read last.

oslo.config takes longer to import than all of a VM start's other work. So what it read
is written down, with the identity of every file and directory that decided it. It is
believed only while none of them has changed, nor anything else that oslo.config goes
by; whenever that isn't certain, oslo.config reads the configuration again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import allocpolicy
from allocpolicy.contract.policy import Policy
from allocpolicy.record import dataclass
from allocpolicy.resolve import config_identity, config_mention, policy_document
from allocpolicy.resolve.config_identity import Identities
from allocpolicy.storage import named_lock, remembered

_READER = "oslo_config"
# What makes a policy of a file: oslo.config's modules, and ours.
_READING = ("cfg.py", "iniparser.py", "types.py")
_OURS = (
    "contract/facts.py",
    "contract/policy.py",
    "resolve/config.py",
    "resolve/config_options.py",
    "resolve/config_strays.py",
    "resolve/policy_document.py",
    "size.py",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a policy rests on: how files are read, and which files those are."""

    at: int  #: nanoseconds since 1970, of before they were looked for
    reading: list[object]  #: what of this process has a part in it
    files: Identities  #: of the files that are read, and of those that read them


def ground() -> Ground | None:
    """Return what decides about the policy now; None when that isn't files alone."""
    at, reading, code = time.time_ns(), _reading(), _code()
    if config_mention.in_environment() or not code:
        return None
    try:
        files = config_identity.of_all([*code, *config_mention.places()])
    except OSError:
        return None
    if files is None or not all(map(files.get, code)):  # they may be in a zip file
        return None
    return Ground(at=at, reading=reading, files=files)


def recalled() -> Policy | None:
    """Return the policy that oslo.config would read now; None: let it read."""
    content = None if config_mention.in_environment() else remembered.read(_path())
    if content is None:
        return None
    try:
        document = json.loads(content)
        policy = policy_document.decoded(document["policy"])
        return policy if _holds(document, policy) else None
    except (AttributeError, KeyError, OSError, TypeError, ValueError, RecursionError):
        return None  # another version wrote it, or it was cut short


def remember(policy: Policy, *, before: Ground, read: Iterable[str]) -> None:
    """Write down the policy, if it certainly rests on what was there before.

    :param read: the files that oslo.config has read.
    """
    with contextlib.suppress(ValueError):
        now = ground()
        if now is None or (now.reading, now.files) != (before.reading, before.files):
            return
        if not before.files.keys() >= {*read}:
            return
        if not config_identity.are_settled(before.files, at=before.at):
            return
        content = json.dumps(_document(policy, before)).encode()
        if policy_document.decoded(json.loads(content)["policy"]) == policy:
            remembered.write(_path(), content)


def _document(policy: Policy, before: Ground) -> dict[str, object]:
    paths = policy_document.paths(policy)
    return {
        "reading": before.reading,
        "files": before.files,
        "directories": {path: os.path.isdir(path) for path in paths},
        "policy": policy_document.encoded(policy),
    }


def _holds(document: Mapping[str, Any], policy: Policy) -> bool:
    """Return whether all is as it was when the policy was read.

    :raises OSError: when that can't be found out.
    """
    files, directories, code = document["files"], document["directories"], _code()
    return (
        bool(code)
        and document["reading"] == _reading()
        and files.keys() >= {*code, *config_mention.places()}
        and all(config_identity.of(path) == was for path, was in files.items())
        and directories.keys() == {*policy_document.paths(policy)}
        and all(os.path.isdir(path) is was for path, was in directories.items())
    )


def _path() -> Path:
    """Return the file of this installation: another would read for itself each time."""
    installed = os.fsencode(allocpolicy.__path__[0])
    name = f"{named_lock.key('policy', of=installed)}.json"
    return named_lock.own_directory() / name


def _reading() -> list[object]:
    encoding = io.TextIOWrapper(io.BytesIO()).encoding.lower()
    return [sys.hexversion, encoding, os.geteuid()]


def _code() -> list[str]:
    """Return the paths of what would read the files; none: that isn't known."""
    found = PathFinder.find_spec(_READER)
    if found is None or not found.submodule_search_locations:
        return []
    (*_, place), package = found.submodule_search_locations, allocpolicy.__path__[0]
    theirs = [os.path.join(place, name) for name in _READING]
    return [*theirs, *(os.path.join(package, name) for name in _OURS)]
