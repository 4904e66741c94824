"""``--disk-format``: the format of a disk; ``--format`` takes it or the output's.

The two have no word in common: qcow2 and raw are formats of disks, json and the like of
the output. So cliff's ``-f`` and ``--format`` serve both, and nobody gets a riddle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from allocpolicy.cli.options.enumeration import one_of
from allocpolicy.cli.streams import aside
from allocpolicy.contract.facts import DiskFormat

_DEST = "disk_format"
_DISKS = tuple(map(str, DiskFormat))
_SUFFIXES = {f".{one}": one for one in (*_DISKS, "vmdk", "vhdx", "vdi", "qed")}


def add(
    parser: argparse.ArgumentParser, *, help: str, default: DiskFormat | None = None
) -> None:
    """Add ``--disk-format``; ``-f`` and ``--format`` then take such a word, too.

    :param help: what the format is for.
    :param default: what it is if it isn't given.
    """
    parser.add_argument(
        "--disk-format",
        dest=_DEST,
        type=one_of(DiskFormat),
        choices=list(DiskFormat),
        default=default,
        help=help,
    )
    # argparse has no other way to an option that somebody else declared.
    for group in parser._action_groups:  # noqa: SLF001
        for option in group._group_actions:  # noqa: SLF001
            if "-f" in option.option_strings:
                _have_both(option, group=group)
                return


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the format that disks without a stamp have; None if it is not given."""
    add(parser, help="the format of a disk without a stamp; it is never guessed")
    parser.add_argument(
        "--force",
        action="store_true",
        help="take a disk without a stamp for raw, though it begins as something else"
        " does",
    )


def hint(disk: Path, format: DiskFormat) -> None:
    """Say it if a disk's name ends as that of another format does; .img fits all."""
    named = _SUFFIXES.get(disk.suffix.lower(), format)
    if named != format:
        remedy = f"--disk-format {named} makes" if named in _DISKS else "no disk is"
        aside.say(f"hint: {disk} is {format} in spite of its name; {remedy} {named}")


class _Either(argparse.Action):
    """Sets the format of the disk, or else that of the output."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        word = str(values)
        if word in tuple(DiskFormat):
            setattr(namespace, _DEST, DiskFormat(word))
        else:
            setattr(namespace, self.dest, word)


def _have_both(output: argparse.Action, *, group: argparse._ArgumentGroup) -> None:
    """Replace cliff's option of the output's format by one that takes both."""
    words = [*map(str, output.choices or ()), *map(str, DiskFormat)]
    group.add_argument(
        *output.option_strings,
        action=_Either,
        dest=output.dest,
        type=one_of(words),
        choices=words,
        default=output.default,
        help=f"{output.help}; qcow2 and raw are taken as --disk-format",
    )
