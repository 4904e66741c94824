"""The policy of a configuration, remembered from when it was read last.

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
import stat
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import allocpolicy
from allocpolicy.contract.policy import Policy
from allocpolicy.record import dataclass
from allocpolicy.resolve import config_identity, config_mention, policy_document
from allocpolicy.resolve.config_identity import Identities, Identity
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
    "resolve/config_types.py",
    "resolve/policy_document.py",
    "size.py",
)
_MOST_ASKED = 16  # memories of files that were asked for: each replaces an older one


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Files and directories that are read instead of the default ones, as given."""

    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()

    @classmethod
    def of(cls, files: Sequence[Path], directories: Sequence[Path]) -> Asked:
        """Return them as oslo.config takes them: absolute."""
        return cls(files=_absolute(files), directories=_absolute(directories))


def _absolute(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(os.path.abspath(os.path.expanduser(path)) for path in paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a policy rests on: how files are read, and which files those are."""

    at: int  #: nanoseconds since 1970, of before they were looked for
    reading: list[object]  #: what of this process has a part in it
    files: Identities  #: of the files that are read, and of those that read them


def ground(asked: Asked) -> Ground | None:
    """Return what decides about the policy now; None when that isn't files alone."""
    at, reading, code = time.time_ns(), _reading(asked), _code()
    if config_mention.in_environment() or not code:
        return None
    try:
        files = config_identity.of_all([*code, *_places(asked)])
    except OSError:
        return None
    if files is None or not all(map(files.get, code)):  # they may be in a zip file
        return None
    if not all(map(_lasts, files.values())):
        return None
    return Ground(at=at, reading=reading, files=files)


def recalled(asked: Asked) -> Policy | None:
    """Return the policy that oslo.config would read now; None: let it read."""
    content = None if config_mention.in_environment() else remembered.read(_path(asked))
    if content is None:
        return None
    try:
        document = json.loads(content)
        policy = policy_document.decoded(document["policy"])
        return policy if _holds(document, policy, asked=asked) else None
    except (AttributeError, KeyError, OSError, TypeError, ValueError, RecursionError):
        return None  # another version wrote it, or it was cut short


def remember(
    policy: Policy, *, asked: Asked, before: Ground, read: Iterable[str]
) -> None:
    """Write down the policy, if it certainly rests on what was there before.

    :param read: the files that oslo.config has read.
    """
    with contextlib.suppress(ValueError):
        now = ground(asked)
        if now is None or (now.reading, now.files) != (before.reading, before.files):
            return
        if not before.files.keys() >= {*map(os.path.abspath, read)}:
            return
        if not config_identity.are_settled(before.files, at=before.at):
            return
        content = json.dumps(_document(policy, before)).encode()
        if policy_document.decoded(json.loads(content)["policy"]) == policy:
            remembered.write(_path(asked), content)


def _document(policy: Policy, before: Ground) -> dict[str, object]:
    paths = policy_document.paths(policy)
    return {
        "reading": before.reading,
        "files": before.files,
        "directories": {path: os.path.isdir(path) for path in paths},
        "policy": policy_document.encoded(policy),
    }


def _holds(document: Mapping[str, Any], policy: Policy, *, asked: Asked) -> bool:
    """Return whether all is as it was when the policy was read.

    :raises OSError: when that can't be found out.
    """
    files, directories, code = document["files"], document["directories"], _code()
    return (
        bool(code)
        and document["reading"] == _reading(asked)
        and files.keys() >= {*code, *_places(asked)}
        and all(config_identity.of(path) == was for path, was in files.items())
        and directories.keys() == {*policy_document.paths(policy)}
        and all(os.path.isdir(path) is was for path, was in directories.items())
    )


def _path(asked: Asked) -> Path:
    """Return the file of this installation: another would read for itself each time."""
    one = os.fsencode(allocpolicy.__path__[0])
    if asked != Asked():
        said = os.fsencode(repr(asked))
        one += b"\0%d" % (int(named_lock.key("", of=said)[1:], 16) % _MOST_ASKED)
    return named_lock.own_directory() / f"{named_lock.key('policy', of=one)}.json"


def _reading(asked: Asked) -> list[object]:
    encoding = io.TextIOWrapper(io.BytesIO()).encoding.lower()
    files, directories = list(asked.files), list(asked.directories)
    return [sys.hexversion, encoding, os.geteuid(), files, directories]


def _places(asked: Asked) -> tuple[str, ...]:
    """Return where a configuration may be: some of them are not looked at."""
    return (*config_mention.places(), *asked.files, *asked.directories)


def _lasts(one: Identity) -> bool:
    """Return whether something is a file or a directory, not a pipe's other end."""
    return one is None or stat.S_ISREG(one[2]) or stat.S_ISDIR(one[2])


def _code() -> list[str]:
    """Return the paths of what would read the files; none: that isn't known."""
    found = PathFinder.find_spec(_READER)
    if found is None or not found.submodule_search_locations:
        return []
    (*_, place), package = found.submodule_search_locations, allocpolicy.__path__[0]
    theirs = [os.path.join(place, name) for name in _READING]
    return [*theirs, *(os.path.join(package, name) for name in _OURS)]
