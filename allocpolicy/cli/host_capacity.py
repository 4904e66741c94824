"""``allocpolicy host capacity``: what a filesystem holds, and its disks may take."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from allocpolicy import record_class
from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.screens import brief, observed, screen
from allocpolicy.cli.screens.columns import Data, column, size
from allocpolicy.observe.account import Account
from allocpolicy.operations.capacity import capacity
from allocpolicy.report.capacity import Capacity
from allocpolicy.storage.quota import Quota
from allocpolicy.wording import amount

_LISTED = (
    *(size("virtual_size", heading="SIZE"), size("actual_size", heading="TAKEN")),
    *(size("promised"), column("kind"), column("path")),
)


class HostCapacity(ShowOne):
    """Show what a directory's filesystem holds, and what its disks may still take."""

    columns = fields = (
        *("directory", "filesystem", "key", "quota"),
        *record_class.names(Account),
        *("shortfall", "fits", "overcommit_ratio", "max_overcommit_ratio"),
        *("reserved_host_disk", "left", "outlook", "listed"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "directory", type=Path, metavar="DIR", help="a directory for disks"
        )
        parser.add_argument(
            "--disks",
            action="store_true",
            help="list every file that was counted, and as what",
        )

    def show(self, arguments: argparse.Namespace) -> Data:
        self._found = capacity(arguments.directory, policy=self.policy(arguments))
        return self._found.as_document(listed=arguments.disks)

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        found = self._found
        sizes = f"{amount(found.account.size)}, {amount(found.account.free)} free"
        yield from observed.head(
            found.directory, what=found.filesystem.type, policy=sizes, width=width
        )
        yield from screen.pairs(dict(_lines(found)), width=width)
        if listed := shown["listed"]:
            assert isinstance(listed, list)
            yield ""
            yield from screen.table(_LISTED, listed, width=width)


def _lines(found: Capacity) -> Iterator[tuple[str, str | list[str]]]:
    """Yield what is said of the capacity, by the fields that it is of."""
    taken = found.account
    yield "budget", taken.budget or ""
    yield "disks", _counted(taken)
    unwritten = f", {amount(taken.unwritten)} of that reserved and not written yet"
    allocated = f"{amount(taken.allocated)} by disks and images"
    yield "allocated", allocated + (unwritten if taken.unwritten else "")
    yield "prepared", _prepared(taken)
    whole = f"if guests write all of the {amount(taken.virtual_size)} that they see"
    yield "promised", f"{amount(taken.promised)} more, {whole}"
    yield "left", _left(found)
    yield (
        "quota",
        [
            f"{kind.name.lower()} {one.id}: {_quota(one)}"
            for kind, one in found.quotas.items()
        ],
    )
    yield "outlook", brief.rounded(found.outlook)


def _counted(taken: Account) -> str:
    names = ("unstamped", "malformed")
    counts = {name: getattr(taken, name) for name in names}
    remarks = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    disks = f"{taken.disks} ({remarks})" if remarks else f"{taken.disks}"
    unread = f", and {taken.unreadable} unreadable" if taken.unreadable else ""
    return f"{disks}, beside {taken.images} other files{unread}"


def _prepared(taken: Account) -> str:
    """Return what prepared disks take; nothing where there is none."""
    if not (count := taken.prepared_disks):
        return ""
    disks = f"{count} prepared disk{'s' * (count != 1)}"
    own = f"{amount(taken.prepared_bytes)} that nothing else has"
    return f"{own}, by {disks} ('cache prune --prepared' gives them back)"


def _left(found: Capacity) -> str:
    """Return what may still be promised, and by which limits."""
    left = found.as_document()["left"]
    limit, ratio = found.limits.max_overcommit_ratio, found.account.overcommit_ratio
    kept = found.limits.reserved_host_disk
    reserved = f"; {amount(kept)} are the host's (reserved_host_disk)" if kept else ""
    if not isinstance(left, int):
        return f"no limit (over-commit ratio {ratio:.3f}){reserved}"
    ratios = f"over-commit ratio {ratio:.3f} of {limit:g}"
    return f"{amount(max(0, left))} may still be promised ({ratios}){reserved}"


def _quota(quota: Quota) -> str:
    limits = {"soft": quota.soft_limit, "hard": quota.hard_limit}
    parts = [f"{name} limit {amount(one)}" for name, one in limits.items() if one]
    return f"{amount(quota.used)} used, {', '.join(parts) or 'no limit'}"
