"""``allocpolicy cache list`` and ``cache prune``: the image cache."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy.cli.command import Lister, lines
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import cache as image_cache
from allocpolicy.image_cache.cache import Entry

COLUMNS = ("Entry", "Source format", "Virtual size", "Actual size", "Used by")


class _CacheCommand(Lister):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the directory."""
        parser.add_argument(
            "directory",
            type=Path,
            nargs="?",
            metavar="DIR",
            help="the cache, or the directory of disks that has it as"
            f" {image_cache.DEFAULT_NAME} (default: image_cache_dir)",
        )

    def directory(self, arguments: argparse.Namespace) -> Path:
        """Return the cache's directory.

        :raises InvalidRequest: when none is known.
        """
        policy: Policy = self.policy(arguments)
        chosen: Path | None = arguments.directory or policy.image_cache_dir
        if chosen is None:
            reason = "which cache? give its directory, or configure image_cache_dir"
            raise InvalidRequest(reason)
        beside = chosen / image_cache.DEFAULT_NAME
        return beside if beside.is_dir() else chosen


class CacheList(_CacheCommand):
    """List the converted base images, and who uses them."""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Return a row an entry."""
        entries = image_cache.entries(
            self.directory(parsed_args),
            configured=self.policy(parsed_args).image_cache_dir,
        )
        return COLUMNS, [_row(entry) for entry in entries]


class CachePrune(_CacheCommand):
    """Remove the converted base images that nobody uses."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what is to be taken for unused."""
        super().add_arguments(parser)
        parser.add_argument(
            "--forget-moved",
            action="store_true",
            help="remove entries, too, whose only users are disks that are no longer"
            " where they were made: that these were deleted, and not moved, is for you"
            f" to know (of {image_cache.DEFAULT_NAME} beside the disks it is known)",
        )

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Return a row an entry, and what became of it."""
        removed, kept = image_cache.prune(
            self.directory(parsed_args),
            configured=self.policy(parsed_args).image_cache_dir,
            forget_moved=parsed_args.forget_moved,
        )
        rows: list[tuple[object, ...]] = [
            *((*_row(entry), "removed") for entry in removed),
            *((*_row(entry), "kept: it is in use") for entry in kept),
        ]
        return (*COLUMNS, "Outcome"), rows


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        str(entry.path),
        entry.source_format,
        entry.virtual_size,
        entry.actual_size,
        lines(entry.used_by),
    )
