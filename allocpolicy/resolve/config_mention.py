"""Whether an option may be configured, found out in no time: without reading it.

The hook of a domain without a policy has nothing to do unless one option is set, and is
to cost next to nothing. Only oslo.config decides what is set: this module only must not
miss an option that is. It imports nothing.
"""

from __future__ import annotations

import os

PROJECT = "allocpolicy"
# oslo.config's environment source, and snaps, whose directories are not listed below.
# What may be a mistake for one of ours, only oslo.config's side can tell.
_VARIABLES = (f"OS_{PROJECT[:2].upper()}", PROJECT[:2].upper(), "OS_DEFAULT__", "SNAP")
_MOST = 1024 * 1024  # bytes of a file that are searched


def in_environment() -> bool:
    """Return whether a variable may set an option, or lead to other files."""
    return any(name.upper().startswith(_VARIABLES) for name in os.environ)


def places() -> tuple[str, ...]:
    """Return the files and directories that oslo.config reads by default.

    Source: its `find_config_files` and `find_config_dirs`.
    """
    home, etc = os.path.abspath(os.path.expanduser("~")), "/etc"
    named = [
        f"{directory}/{PROJECT}.{suffix}"
        for directory in (home, etc)
        for suffix in ("conf", "conf.d")
    ]
    return (f"{home}/.{PROJECT}", f"{etc}/{PROJECT}", *named)


def mentioned(option: str) -> bool:
    """Return whether the configuration may set the option."""
    return in_environment() or any(_is_in(place, option) for place in places())


def _is_in(place: str, option: str) -> bool:
    """Return whether a file, or one at any depth of a directory, may set the option.

    A comment doesn't; a sample of the configuration has all options as comments.
    Another spelling is no option, and is refused where the configuration is read.
    """
    try:
        if os.path.isdir(place):
            inside = os.listdir(place)
            return any(_is_in(f"{place}/{name}", option) for name in inside)
        with open(place, "rb") as file:
            content = file.read(_MOST + 1)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # what it says is found out where it is read
    return len(content) > _MOST or any(
        option.encode() in line.lower().replace(b"-", b"_")
        and not line.lstrip().startswith((b"#", b";"))
        for line in content.splitlines()
    )
