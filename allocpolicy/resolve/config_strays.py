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
_VARIABLE, _IN_DEFAULT = f"OS_{PROJECT.upper()}", f"OS_{_DEFAULT}__"


def refuse(
    conf: cfg.ConfigOpts, *, ours: Sequence[str], default: Sequence[str]
) -> None:
    """Refuse what was meant for us and is not read, in files and in the environment.

    :param ours: the options in our group; ``default`` are those in ``[DEFAULT]``.
    :raises ConfigError: naming the first, where it is, and the nearest option.
    """
    for name in os.environ:
        _check_variable(name, ours=ours, default=default)
    for path in files(conf):
        for group, options in _parsed(path).items():
            for option in options:
                _check(option, group=group, path=path, ours=ours, default=default)


def _check_variable(name: str, *, ours: Sequence[str], default: Sequence[str]) -> None:
    """Check a variable of the environment, where oslo.config reads two underscores."""
    known = [f"{_VARIABLE}__{option.upper()}" for option in ours]
    in_default = [f"{_IN_DEFAULT}{option.upper()}" for option in default]
    written = name.upper()
    if written.startswith(_IN_DEFAULT):
        known, meant = in_default, _near(written, in_default)
    else:
        meant = _is_meant(written, ours=ours)
    if meant and name not in known:
        hint = wording.hint(known, nearest_to=written)
        raise ConfigError(f"environment {name}: there is no such option{hint}")


def _is_meant(written: str, *, ours: Sequence[str]) -> bool:
    """Return whether a variable is meant for us, in any spelling.

    Without OS_ it may be a script's own: only if it ends like an option of ours.
    """
    if written.startswith(_VARIABLE):
        return True
    rest = written.removeprefix("OS_")
    group, _, option = rest.partition("__")
    if not option and rest.startswith(PROJECT.upper()):
        group, option = PROJECT, rest.removeprefix(PROJECT.upper()).strip("_")
    is_option = rest != written or _near(option.lower(), ours)
    return bool(option) and is_option and _is_like_ours(group)


def _check(
    option: str, *, group: str, path: str, ours: Sequence[str], default: Sequence[str]
) -> None:
    place = f"[{group}] {option} in {path}"
    if group.lower() == PROJECT:
        if option not in ours:
            choices = wording.choices(ours, nearest_to=option)
            raise ConfigError(f"{place}: there is no such option; {choices}")
    elif group.strip().upper() == _DEFAULT:
        if option not in default and option in {*ours} - _SHARED:
            raise ConfigError(f"{place}: it belongs in the group [{PROJECT}]")
        if option not in default and _near(option, default):
            _misspelt(f"{place}: there is no such option", option, default)
        if option in default and group != _DEFAULT:
            _misspelt(f"{place}: nobody reads this group", _DEFAULT, (_DEFAULT,))
    elif _is_like_ours(group):
        _misspelt(f"{place}: nobody reads this group", PROJECT, (PROJECT,))


def _is_like_ours(group: str) -> bool:
    """Return whether a group is ours but for its spelling, or has our name in its own.

    Of ``[allocpolicy.performance]`` nothing is read either.
    """
    letters = "".join(filter(str.isalpha, group.lower()))
    return PROJECT in letters or _near(letters, (PROJECT,))


def _near(word: str, words: Sequence[str]) -> bool:
    return bool(difflib.get_close_matches(word, words, n=1, cutoff=_NEAR))


def _misspelt(reason: str, word: str, words: Sequence[str]) -> NoReturn:
    raise ConfigError(f"{reason}{wording.hint(words, nearest_to=word)}")


def files(conf: cfg.ConfigOpts) -> Iterator[str]:
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
