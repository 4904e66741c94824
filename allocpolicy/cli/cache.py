"""``allocpolicy cache list`` and ``cache prune``: the image cache."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from allocpolicy.cli.command import Lister
from allocpolicy.cli.screens.columns import Data, column, size
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.image_cache import entries as cache
from allocpolicy.image_cache.described import Entry, Kind
from allocpolicy.image_cache.location import DEFAULT_NAME
from allocpolicy.image_cache.users import is_gone
from allocpolicy.wording import amount

FIELDS = (
    *("kind", "source", "source_format", "format", "virtual_size", "actual_size"),
    *("used_by", "outdated", "last_used", "entry"),
)

_KINDS = {Kind.CONVERTED: "converted image", Kind.PREPARED: "prepared disk"}
_PLANNED, _TO_GO = "planned", "would be removed"  # as data, and as people read it


def _users(row: Data) -> str:
    """Return how many need an entry, and how many are gone: --long says who."""
    users = row["used_by"]
    assert isinstance(users, list)
    gone = sum(map(is_gone, users))
    return f"{len(users)}, {gone} gone" if gone else str(len(users) or "-")


def _source(row: Data) -> str:
    """Return the image that people know, or else the entry."""
    return str(row["source"] or row["entry"])


def _format(row: Data) -> str:
    """Return what it was converted from; of a prepared disk, its own format."""
    return str(row["source_format"] or row["format"])


def _outcome(row: Data) -> str:
    return _TO_GO if row["outcome"] == _PLANNED else str(row["outcome"])


COLUMNS = (
    *(size("virtual_size", heading="SIZE"), size("actual_size", heading="TAKEN")),
    column("kind"),
    column("source_format", heading="FORMAT", cell=_format),
    column("used_by", heading="USERS", cell=_users),
    column("source", cell=_source),
)


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names an image cache."""
    parser.add_argument(
        "directory",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="the cache, or the directory of disks that contains it as"
        f" {DEFAULT_NAME} (default: image_cache_dir)",
    )


class CacheList(Lister):
    """List converted base images and prepared disks: their sources, and their users.

    The source is what the entry says of itself: the path of the image when it was made.
    One that doesn't say, or was made from no image, has its own path.
    """

    fields, columns = FIELDS, COLUMNS

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_directory(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        policy = self.policy(arguments)
        entries = cache.entries(
            directory(arguments, policy=policy), configured=policy.image_cache_dir
        )
        self.summary = _counted(entries)
        return [_row(entry) for entry in entries]


class CachePrune(Lister):
    """Remove converted base images that nobody uses, and prepared disks of no use.

    A prepared disk is of no use once the image that it was made from has changed or is
    gone, or where prepared_disks is off. No disk needs one, only a job that clones it.
    """

    fields = (*FIELDS, "outcome")
    columns = (*COLUMNS[:-1], column("outcome", cell=_outcome), COLUMNS[-1])

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_directory(parser)
        parser.add_argument(
            "--forget-moved",
            action="store_true",
            help="also remove entries whose only users are disks that are no longer"
            " where they were created; make sure that these were deleted, not moved"
            f" (for {DEFAULT_NAME} beside the disks, allocpolicy checks)",
        )
        parser.add_argument(
            "--prepared",
            action="store_true",
            help="also remove the prepared disks that further disks would be cloned"
            " from; they are prepared again when they are asked for",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="show what would be removed; change nothing",
        )

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        policy = self.policy(arguments)
        removed, kept = cache.prune(
            directory(arguments, policy=policy),
            configured=policy.image_cache_dir,
            forget_moved=arguments.forget_moved,
            prepared=arguments.prepared or not policy.prepared_disks.enabled,
            dry_run=arguments.dry_run,
        )
        gone, said = (_PLANNED, _TO_GO) if arguments.dry_run else ("removed", "removed")
        self.summary = f"{said}: {_counted(removed)}; kept: {_counted(kept)}"
        forgotten = [
            one for one in kept if one.used_by and all(map(is_gone, one.used_by))
        ]
        if forgotten:
            self.summary += (
                f"; {len(forgotten)} of these only for disks that are gone: see"
                " --forget-moved"
            )
        if any(one.kind is Kind.PREPARED and not one.used_by for one in kept):
            self.summary += "; --prepared removes prepared disks that are of use, too"
        return [
            *({**_row(entry), "outcome": gone} for entry in removed),
            *({**_row(entry), "outcome": "kept"} for entry in kept),
        ]


def directory(arguments: argparse.Namespace, *, policy: Policy) -> Path:
    """Return the cache's directory.

    :raises InvalidRequest: when none is known.
    """
    chosen: Path | None = arguments.directory or policy.image_cache_dir
    if chosen is None:
        reason = "no cache directory: name one, or configure image_cache_dir"
        raise InvalidRequest(reason)
    beside = chosen / DEFAULT_NAME
    return beside if os.path.lexists(beside) else chosen


def _row(entry: Entry) -> Data:
    return {
        "kind": str(entry.kind),
        "source": entry.source,
        "source_format": entry.source_format,
        "format": entry.format,
        "virtual_size": entry.virtual_size,
        "actual_size": entry.actual_size,
        "used_by": list(entry.used_by),
        "outdated": entry.outdated,
        "last_used": None if entry.last_used is None else _moment(entry.last_used),
        "entry": str(entry.path),
    }


def _moment(seconds: float) -> str:
    """Return a moment as RFC 3339 has it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _counted(entries: list[Entry]) -> str:
    """Return how many there are of each kind; of converted images, also none."""
    parts = []
    for kind, what in _KINDS.items():
        some = [entry for entry in entries if entry.kind is kind]
        if some or kind is Kind.CONVERTED:
            taken = amount(sum(entry.actual_size for entry in some))
            parts.append(f"{len(some)} {what}{'s' * (len(some) != 1)}, {taken}")
    return " and ".join(parts)
