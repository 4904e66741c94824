"""``allocpolicy host capacity`` and ``host probe``: what a directory's storage is."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.cli.cells import lines, structured
from allocpolicy.cli.command import ShowOne
from allocpolicy.observe.account import Account
from allocpolicy.observe.ledger import Entry
from allocpolicy.operations.capacity import capacity
from allocpolicy.operations.probe import probe
from allocpolicy.report.capacity import Capacity
from allocpolicy.report.probe import Probe, Trial, capabilities
from allocpolicy.storage.below import Layer
from allocpolicy.storage.quota import Quota
from allocpolicy.wording import format_size


class _HostCommand(ShowOne):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "directory", type=Path, metavar="DIR", help="a directory for disks"
        )


class HostCapacity(_HostCommand):
    """Show what a directory's filesystem holds, and what its disks may still take."""

    columns = (
        *("directory", "filesystem", "budget"),
        *("size", "used", "free", "reserved_blocks"),
        *("quota", "disks", "images"),
        *("virtual_size", "allocated", "unwritten", "promised"),
        *("overcommit_ratio", "max_overcommit_ratio", "reserved_host_disk"),
        *("may be promised", "if every disk were filled", "listed"),
    )
    fields = (
        *("directory", "filesystem", "key", "quota"),
        *(field.name for field in dataclasses.fields(Account)),
        *("shortfall", "fits", "overcommit_ratio", "max_overcommit_ratio"),
        *("reserved_host_disk", "left", "outlook", "listed"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--disks",
            action="store_true",
            help="list every file that was counted, and as what",
        )

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
        found = capacity(arguments.directory, policy=self.policy(arguments))
        if structured(arguments):
            return found.as_document(listed=arguments.disks)
        rows = _summary(found)
        if arguments.disks:
            rows["listed"] = lines(map(_entry, found.entries)) or "-"
        return rows


class HostProbe(_HostCommand):
    """Try what a directory's storage can do, and which strategies work on it.

    Nothing is left in the directory.
    """

    columns = fields = (
        *("directory", "filesystem", "key", "block_size", "size", "free"),
        *("copy_on_write", "below", "capabilities", "direct_io", "strategies"),
    )

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
        found = probe(arguments.directory, policy=self.policy(arguments))
        document = found.as_document()
        return document if structured(arguments) else document | _readable(found)


def _readable(found: Probe) -> dict[str, object]:
    """Return as text what the document has as lists and records."""
    storage, aligned = found.capabilities, found.capabilities.direct_io
    able = capabilities(storage)
    return {
        "size": format_size(storage.filesystem.size),
        "free": format_size(storage.filesystem.free),
        "below": lines(map(_layer, found.below)) or "no device",
        "capabilities": lines(
            f"{name}: {'yes' if can else 'no'}" for name, can in able.items()
        ),
        "direct_io": f"memory {aligned.memory}, offset {aligned.offset}"
        if aligned
        else "no",
        "strategies": lines(map(_trial, found.trials)),
    }


def _layer(layer: Layer) -> str:
    said = f"{layer.name}: {layer.kind}"
    return f"{said}; {layer.exception}" if layer.exception else said


def _trial(trial: Trial) -> str:
    name = f"{trial.strategy} ({trial.format})"
    if trial.outcome is None:
        return f"{name}: {trial.error}"
    seen, verdict = trial.outcome.observation, trial.outcome.verdict
    kept = "guaranteed" if seen.guaranteed else f"not guaranteed: {seen.exception}"
    return f"{name}: {verdict.judgement}, {seen.allocation}, {kept}"


def _summary(found: Capacity) -> dict[str, object]:
    """Return the capacity for people: one value a row."""
    taken, limits = found.account, found.limits
    document = found.as_document()
    left, ratio = document["left"], limits.max_overcommit_ratio
    rows: dict[str, object] = {
        "directory": found.directory,
        "filesystem": f"{found.filesystem.type} ({found.filesystem.key})",
        "budget": taken.budget or "all of the filesystem",
    }
    rows |= {
        name: format_size(getattr(taken, name))
        for name in ("size", "used", "free", "reserved_blocks")
    }
    rows |= {
        "quota": lines(
            f"{kind.name.lower()} {one.id}: {_quota(one)}"
            for kind, one in found.quotas.items()
        )
        or "no readable quota",
        "disks": _counted(found),
        "images": taken.images,
    }
    rows |= {
        name: format_size(getattr(taken, name))
        for name in ("virtual_size", "allocated", "unwritten", "promised")
    }
    return rows | {
        "overcommit_ratio": f"{taken.overcommit_ratio:.3f}",
        "max_overcommit_ratio": f"{ratio:g}" if ratio else "no limit",
        "reserved_host_disk": format_size(limits.reserved_host_disk),
        "may be promised": format_size(left) if isinstance(left, int) else "no limit",
        "if every disk were filled": found.outlook,
    }


def _entry(one: Entry) -> str:
    holds = f"{format_size(one.actual_size)} taken"
    if one.promises:
        holds += f", {format_size(one.promised)} promised"
    if one.unknown:
        holds += f", what else isn't known: {one.unknown}"
    return f"{one.path}: {one.kind}, {holds}"


def _counted(found: Capacity) -> str:
    names = ("unstamped", "malformed", "unreadable")
    counts = {name: getattr(found.account, name) for name in names}
    remarks = [f"{count} {name}" for name, count in counts.items() if count]
    return f"{found.account.disks}" + (f" ({', '.join(remarks)})" if remarks else "")


def _quota(quota: Quota) -> str:
    limits = {"soft": quota.soft_limit, "hard": quota.hard_limit}
    parts = [f"{name} limit {format_size(one)}" for name, one in limits.items() if one]
    return f"{format_size(quota.used)} used, {', '.join(parts) or 'no limit'}"
