"""The commands of other distributions: entry points in the group allocpolicy.commands.

An entry point's name is the command's words (``pool fill``, or ``pool_fill``), its
target a subclass of a class in `allocpolicy.commands`. They are searched for only when
a command is none of ours: no plugin can replace one, or make one start later.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import re
from collections.abc import Collection, Iterator
from typing import Any

from allocpolicy import wording
from allocpolicy.cli.command_names import CommandNames
from allocpolicy.cli.running import Command
from allocpolicy.cli.streams import standard_output
from allocpolicy.cli.streams.failure import UNEXPECTED, tell
from allocpolicy.errors import Error
from allocpolicy.record import dataclass

GROUP = "allocpolicy.commands"

_WORDS = re.compile(r"[a-z0-9][a-z0-9-]*( [a-z0-9][a-z0-9-]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An entry point that claims a command's name; none of its code was imported.

    ``refusal`` says why the name can't be a plugin's, or is empty.
    """

    name: str
    entry_point: importlib.metadata.EntryPoint
    owner: str
    refusal: str

    def load(self) -> type[Command]:
        """Import the command; what its code prints goes to stderr.

        :raises Error: when it can't be used, naming the distribution.
        """
        if self.refusal:
            raise Error(f"command {self.name!r} of {self.owner}: {self.refusal}")
        with standard_output.reserved():
            try:
                command: object = self.entry_point.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise self._failed(wording.raised(error)) from error
        if not isinstance(command, type) or not issubclass(command, Command):
            raise self._failed("it is no subclass of one in allocpolicy.commands")
        return _guarded(command, owner=self.owner)

    def _failed(self, reason: str) -> Error:
        return Error(f"command {self.name!r} of {self.owner} can't be used: {reason}")


def _guarded(command: type[Command], *, owner: str) -> type[Command]:
    """Return the command; what it raises outside of `run` is its failure as well."""

    class Guarded(command):  # type: ignore[valid-type, misc]
        """The command, and whose it is."""

        def __init__(
            self,
            app: Any,
            app_args: argparse.Namespace | None,
            cmd_name: str | None = None,
        ) -> None:
            try:
                super().__init__(app, app_args, cmd_name)
            except Exception as error:
                raise Error(self.failure(error)) from error

        def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
            try:
                parser: argparse.ArgumentParser = super().get_parser(prog_name)
            except Exception as error:
                tell(prog_name, self.failure(error))
                raise SystemExit(UNEXPECTED) from error
            return parser

    named = ("__module__", "__name__", "__qualname__", "__doc__")
    functools.update_wrapper(Guarded, command, assigned=named, updated=())
    Guarded.owner = owner
    return Guarded


class PluginCommands(CommandNames):
    """Finds commands among those of plugins."""

    def __init__(self, *, own: Collection[str]) -> None:
        claims = [_claim(one, own=own) for one in _entry_points()]
        self.claims: dict[str, Claim] = {}
        for claim in claims:
            rivals = [one for one in claims if one.name == claim.name]
            self.claims[claim.name] = claim if len(rivals) == 1 else _rivals(rivals)
        super().__init__(self.claims)

    def listed(self, *, own: Collection[str]) -> Iterator[tuple[str, Claim]]:
        """Return the commands by name, but for those that claim a name of ours."""
        yield from (one for one in self.claims.items() if one[0] not in own)


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=GROUP)
    return sorted(found, key=lambda one: (one.name, _owner(one)))


def _claim(
    entry_point: importlib.metadata.EntryPoint, *, own: Collection[str]
) -> Claim:
    name = " ".join(entry_point.name.replace("_", " ").split())
    return Claim(
        name=name,
        entry_point=entry_point,
        owner=_owner(entry_point),
        refusal=_refusal(name, own=own),
    )


def _refusal(name: str, *, own: Collection[str]) -> str:
    """Return why a plugin can't have the name, or nothing."""
    if not _WORDS.fullmatch(name):
        return "its name is not words of a-z, 0-9 and -"
    first = name.split(maxsplit=1)[0]
    ours = sorted({one.split()[0] for one in own if one.startswith(first)})
    if ours:  # also what cliff would take for an abbreviation of ours
        return f"its name begins as allocpolicy's own {ours[0]!r} does"
    return ""


def _rivals(claims: list[Claim]) -> Claim:
    owners = " and ".join(one.owner for one in claims)
    refusal = "claimed more than once; uninstall all of them but one"
    return Claim(
        name=claims[0].name,
        entry_point=claims[0].entry_point,
        owner=owners,
        refusal=refusal,
    )


def _owner(entry_point: importlib.metadata.EntryPoint) -> str:
    owner = entry_point.dist
    named = f"{owner.name} {owner.version}" if owner else "unknown"
    return f"{named} ({entry_point.value})"
