"""``allocpolicy pool fill``, ``pool list`` and ``pool drain``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy import DiskFormat, InvalidRequest
from allocpolicy.commands import (
    Lister,
    Row,
    add_disk_format,
    column,
    progress,
    sentence,
    size,
)
from allocpolicy_pool import filling
from allocpolicy_pool import size as sizes
from allocpolicy_pool.ready import Entry, Kind

FIELDS = ("disk", "format", "virtual_size", "actual_size", "state")
COLUMNS = (
    column("format"),
    size("size", field="virtual_size"),
    size("taken", field="actual_size"),
    sentence("state"),
    column("disk"),
)


class _PoolCommand(Lister):
    fields, columns = FIELDS, COLUMNS
    kind_required = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "directory",
            type=Path,
            metavar="DIR",
            help="the directory of the disks: its pool serves those in it and below",
        )

    def add_kind(self, parser: argparse.ArgumentParser, *, required: bool) -> None:
        """Add the options that say which disks."""
        parser.add_argument(
            "--size",
            required=required,
            metavar="SIZE",
            help="the disks' virtual size: bytes, or 512M, 20G, 2T (powers of 1024)",
        )
        add_disk_format(
            parser,
            default=DiskFormat.RAW if required else None,
            help="the disks' format" + (" (default: raw)" if required else ""),
        )


class Fill(_PoolCommand):
    """Make ready-made disks until there are as many as wanted.

    Each is admitted, fully written and synced as a disk of its own. What does not fit
    is refused; those made before are ready.
    """

    state = "the disks that were made are ready, and nothing else was left"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        self.add_kind(parser, required=True)
        parser.add_argument(
            "--count",
            type=int,
            required=True,
            metavar="N",
            help="how many are to be ready, those that are there included",
        )

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        pool = filling.pool_of(arguments.directory)
        if arguments.count < 1:
            raise InvalidRequest(f"--count {arguments.count}: a count is at least 1")
        with progress() as watch:
            made = filling.fill(
                arguments.directory,
                kind=_kind(arguments),
                count=arguments.count,
                policy=self.policy(arguments),
                watch=watch,
            )
            return [_row(pool, one) for one in made]


class List(_PoolCommand):
    """List what is in a pool: what is ready, and what is not handed out, and why."""

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        pool = filling.pool_of(arguments.directory)
        return [_row(pool, one) for one in filling.look(arguments.directory)]


class Drain(_PoolCommand):
    """Remove ready-made disks; what is not ready stays, and is listed with the reason.

    A disk that is being handed out meanwhile may be gone before or after.
    """

    state = "disks that were not removed are still ready"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        self.add_kind(parser, required=False)

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        pool = filling.pool_of(arguments.directory)
        if (arguments.size is None) is not (arguments.disk_format is None):
            raise InvalidRequest("give --size and --disk-format, or neither")
        kind = None if arguments.size is None else _kind(arguments)
        drained = filling.drain(arguments.directory, kind=kind)
        return [_row(pool, one, ready="removed") for one in drained]


def _kind(arguments: argparse.Namespace) -> Kind:
    return Kind(
        virtual_size=sizes.parse(arguments.size),
        format=arguments.disk_format,
    )


def _row(pool: Path, one: Entry, *, ready: str = "ready") -> Row:
    kind = one.kind
    return (
        str(pool / one.name),
        str(kind.format) if kind else None,
        kind.virtual_size if kind else None,
        one.storage,
        f"kept: {one.problem}" if one.problem else ready,
    )
