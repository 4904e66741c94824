"""What the completions of all shells have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tools.command_line import Command, Kind

HEAD = "# Written by tools/completions.py from the parsers of allocpolicy's commands.\n"
# A description is in one line with what it describes.
_LONGEST = 60
_HELP = "help"


def after(known: Sequence[Command]) -> dict[str, list[str]]:
    """Return what may follow the first words of a command; all, after ``help``."""
    following: dict[str, list[str]] = {}
    for name in names(known):
        words = name.split()
        for index, word in enumerate(words):
            there = following.setdefault(" ".join(words[:index]), [])
            if word not in there:
                there.append(word)
    return following


def names(known: Sequence[Command]) -> list[str]:
    """Return the words of each command, and those that ask for its help."""
    commands = [one.name for one in known if one.name]
    return [*commands, *(f"{_HELP} {one}" for one in commands if one != _HELP)]


def takers(command: Command) -> list[str]:
    """Return the names of the options that take something."""
    found = (one for one in command.options if one.kind is not Kind.NOTHING)
    return [name for one in found for name in one.options]


def short(text: str) -> str:
    """Return the beginning of a help, to be shown beside a word."""
    first = re.split(r"; | \(|: ", text, maxsplit=1)[0]
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1]}…"
