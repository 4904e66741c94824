"""Commands by their names, of several words: which one a command line begins with."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from allocpolicy.record import dataclass

if TYPE_CHECKING:
    from allocpolicy.cli.running import Command


class Known(Protocol):
    """What a name stands for."""

    def load(self) -> type[Command]:
        """Import the command.

        :raises Error: when it is a plugin's that can't be used.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A command of ours, by its module and class: ``allocpolicy.cli.audit:Audit``."""

    target: str

    def load(self) -> type[Command]:
        """Import the command."""
        module, _, name = self.target.partition(":")
        command: type[Command] = getattr(importlib.import_module(module), name)
        return command


class CommandNames:
    """Finds a command by its words, each of which may be abbreviated."""

    namespace = None  # cliff looks for extensions of a command in it, and has none

    def __init__(self, commands: Mapping[str, Known]) -> None:
        self.commands: dict[str, Known] = dict(commands)

    def __iter__(self) -> Iterator[tuple[str, Known]]:
        yield from self.commands.items()

    def find_command(self, argv: Sequence[str]) -> tuple[type[Command], str, list[str]]:
        """Return the command, its name and its arguments: the longest name wins.

        :raises ValueError: when there is none, or an abbreviation is of several.
        :raises Error: when it is a plugin's that can't be used.
        """
        words = _words(argv)
        for count in range(len(words), 0, -1):
            name = self._named(words[:count])
            if name is not None:
                return self.commands[name].load(), name, list(argv[count:])
        raise ValueError(f"there is no command {list(argv)!r}")

    def _named(self, words: Sequence[str]) -> str | None:
        name = " ".join(words)
        if name in self.commands:
            return name
        found = [one for one in self.commands if _is_abbreviated(one.split(), words)]
        return found[0] if len(found) == 1 else None


def _is_abbreviated(whole: Sequence[str], words: Sequence[str]) -> bool:
    return len(whole) == len(words) and all(map(str.startswith, whole, words))


def _words(argv: Sequence[str]) -> list[str]:
    """Return what may be a name: all before the first option."""
    options = (count for count, one in enumerate(argv) if one.startswith("-"))
    return list(argv[: next(options, len(argv))])
