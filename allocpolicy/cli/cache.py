"""``allocpolicy cache list`` and ``cache prune``: the image cache."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from allocpolicy.cli.cells import lines
from allocpolicy.cli.command import Lister, Row
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import entries as cache
from allocpolicy.image_cache.entries import Entry
from allocpolicy.image_cache.location import DEFAULT_NAME

COLUMNS = ("Entry", "Source format", "Virtual size", "Actual size", "Used by")


class _CacheCommand(Lister):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "directory",
            type=Path,
            nargs="?",
            metavar="DIR",
            help="the cache, or the directory of disks that contains it as"
            f" {DEFAULT_NAME} (default: image_cache_dir)",
        )


class CacheList(_CacheCommand):
    """List the converted base images and who uses them."""

    columns = COLUMNS

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        policy = self.policy(arguments)
        entries = cache.entries(
            _directory(arguments, policy=policy), configured=policy.image_cache_dir
        )
        return [_row(entry) for entry in entries]


class CachePrune(_CacheCommand):
    """Remove the converted base images that nobody uses."""

    columns = (*COLUMNS, "Outcome")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--forget-moved",
            action="store_true",
            help="also remove entries whose only users are disks that are no longer"
            " where they were created; make sure that these were deleted, not moved"
            f" (for {DEFAULT_NAME} beside the disks, allocpolicy checks)",
        )

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        policy = self.policy(arguments)
        removed, kept = cache.prune(
            _directory(arguments, policy=policy),
            configured=policy.image_cache_dir,
            forget_moved=arguments.forget_moved,
        )
        return [
            *((*_row(entry), "removed") for entry in removed),
            *((*_row(entry), "kept: it is in use") for entry in kept),
        ]


def _directory(arguments: argparse.Namespace, *, policy: Policy) -> Path:
    """Return the cache's directory.

    :raises InvalidRequest: when none is known.
    """
    chosen: Path | None = arguments.directory or policy.image_cache_dir
    if chosen is None:
        reason = "no cache directory: name one, or configure image_cache_dir"
        raise InvalidRequest(reason)
    beside = chosen / DEFAULT_NAME
    return beside if os.path.lexists(beside) else chosen


def _row(entry: Entry) -> Row:
    return (
        str(entry.path),
        entry.source_format,
        entry.virtual_size,
        entry.actual_size,
        lines(entry.used_by),
    )
