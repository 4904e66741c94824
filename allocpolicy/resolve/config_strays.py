"""Settings that nobody reads: misspelt options and groups of ours are told.

oslo.config ignores what no program has registered, as it must where several share a
file: what is in another program's group is none of our business.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from oslo_config import cfg

from allocpolicy import wording
from allocpolicy.errors import ConfigError
from allocpolicy.resolve.config_places import PROJECT

_DEFAULT = "DEFAULT"
_SHARED = frozenset({"lock_path"})  # other programs have one in [DEFAULT], too
_NEAR = 0.8
_VARIABLE = f"OS_{PROJECT.upper()}"


def refuse(
    conf: cfg.ConfigOpts, *, ours: Sequence[str], default: Sequence[str]
) -> None:
    """Refuse what was meant for us and is not read, in files and in the environment.

    :param ours: the options in our group; ``default`` are those in ``[DEFAULT]``.
    :raises ConfigError: naming the first, where it is, and the nearest option.
    """
    for name in os.environ:
        _check_variable(name, ours=ours)
    for path in _files(conf):
        for group, options in _parsed(path).items():
            for option in options:
                _check(option, group=group, path=path, ours=ours, default=default)


def _check_variable(name: str, *, ours: Sequence[str]) -> None:
    """Check a variable of the environment, where oslo.config reads two underscores."""
    if not name.startswith(_VARIABLE):
        return
    known = [f"{_VARIABLE}__{option.upper()}" for option in ours]
    if name not in known:
        hint = wording.hint(known, nearest_to=name)
        raise ConfigError(f"environment {name}: there is no such option{hint}")


def _check(
    option: str, *, group: str, path: str, ours: Sequence[str], default: Sequence[str]
) -> None:
    place = f"[{group}] {option} in {path}"
    if group.lower() == PROJECT:
        if option not in ours:
            choices = wording.choices(ours, nearest_to=option)
            raise ConfigError(f"{place}: there is no such option; {choices}")
    elif group == _DEFAULT:
        if option not in default and option in {*ours} - _SHARED:
            raise ConfigError(f"{place}: it belongs in the group [{PROJECT}]")
        if option not in default and _near(option, default):
            _misspelt(f"{place}: there is no such option", option, default)
    elif _near(group.lower(), (PROJECT,)):
        _misspelt(f"{place}: nobody reads this group", group.lower(), (PROJECT,))


def _near(word: str, words: Sequence[str]) -> bool:
    return bool(difflib.get_close_matches(word, words, n=1, cutoff=_NEAR))


def _misspelt(reason: str, word: str, words: Sequence[str]) -> NoReturn:
    raise ConfigError(f"{reason}{wording.hint(words, nearest_to=word)}")


def _files(conf: cfg.ConfigOpts) -> Iterator[str]:
    """Yield the files that were read, as oslo.config finds them in directories."""
    try:
        yield from conf.config_file
        directories = conf.config_dirs or conf.default_config_dirs
    except cfg.NoSuchOptError:  # another program's, which read no file yet
        return
    for directory in directories:
        yield from map(str, sorted(Path(directory).expanduser().glob("*.conf")))


def _parsed(path: str) -> dict[str, dict[str, list[str]]]:
    """Return the options in each group of a file that oslo.config has read."""
    groups: dict[str, dict[str, list[str]]] = {}
    with contextlib.suppress(OSError):  # gone since, or never there by default
        cfg.ConfigParser(os.path.expanduser(path), groups).parse()
    return groups
