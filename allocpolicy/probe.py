"""What a directory's storage can do, and which strategies keep their promise on it.

Every installed strategy makes a small disk of each format, the ordinary way: plan,
steps, stamp, sync, observe, verify. Only the name it never gets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from allocpolicy import destination, execute, observe, registry, resolve
from allocpolicy.attempt import Task, first_supported
from allocpolicy.errors import Error, StrategyFailed
from allocpolicy.execute import Access, Job, Outcome
from allocpolicy.facts import DiskFormat, Facts, Host
from allocpolicy.plan import Plan, unwatched
from allocpolicy.policy import Policy
from allocpolicy.registry import Loaded
from allocpolicy.stamp import Stamp
from allocpolicy.storage import capability
from allocpolicy.storage.capability import Capabilities
from allocpolicy.strategy import DiskRole, Operation, Request

VIRTUAL_SIZE = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of a strategy with its default options: an outcome, or an error."""

    strategy: str
    format: DiskFormat
    outcome: Outcome | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a directory's storage can do, and what the strategies make of it."""

    directory: Path
    capabilities: Capabilities
    trials: tuple[Trial, ...]


def of(directory: Path, *, policy: Policy) -> Probe:
    """Return what the directory's storage can do; nothing is left in it.

    :raises DestinationError: when no file can be made there.
    """
    disk = destination.resolve(directory / "disk")
    host = observe.host(
        disk.parent,
        headroom=policy.headroom,
        disk_directories=policy.disk_directories,
        limits=policy.limits,
    )
    return Probe(
        directory=disk.parent,
        capabilities=capability.find(disk.parent),
        trials=tuple(_trials(host, policy=policy)),
    )


def _trials(host: Host, *, policy: Policy) -> Iterator[Trial]:
    for name in registry.names():
        for format in DiskFormat:
            outcome = error = None
            try:
                outcome = _try(name, format, host=host, policy=policy)
            except (Error, OSError) as problem:
                error = str(problem)
            except SystemExit as problem:  # whatever a plugin does, others get a row
                error = str(StrategyFailed(name, "", f"SystemExit: {problem}"))
            yield Trial(strategy=name, format=format, outcome=outcome, error=error)


def _try(name: str, format: DiskFormat, *, host: Host, policy: Policy) -> Outcome:
    alone = replace(policy, default_strategy=name, on_unsupported="fail")
    request = Request(
        operation=Operation.PROVISION,
        destination=host.directory / "disk",
        virtual_size=VIRTUAL_SIZE,
        format=format,
        disk_role=DiskRole.ROOT,
    )
    attempt = first_supported(
        Task(
            request=request,
            requested=resolve.resolve(policy=alone, disk_role=DiskRole.ROOT),
            policy=alone,
            facts=partial(Facts, host=host, base=None),
            carry_out=partial(_carry_out, request, host, policy),
        )
    )
    assert attempt.outcome is not None
    return attempt.outcome


def _carry_out(
    request: Request,
    host: Host,
    policy: Policy,
    plan: Plan,
    /,
    *,
    loaded: Loaded,
    stamp: Stamp,
) -> Outcome:
    job = Job(
        request=request,
        host=host,
        loaded=loaded,
        stamp=stamp,
        access=Access(),
        lock_path=policy.lock_path,
        watch=unwatched,
    )
    return execute.try_out(plan, job)


def as_document(probe: Probe) -> dict[str, object]:
    """Return the probe as JSON data, valid against schemas/probe.json."""
    found = probe.capabilities
    filesystem = found.filesystem
    return {
        "directory": str(probe.directory),
        "filesystem": filesystem.type,
        "key": filesystem.key,
        "block_size": filesystem.block_size,
        "size": filesystem.size,
        "free": filesystem.free,
        "copy_on_write": filesystem.copy_on_write,
        "capabilities": capabilities(found),
        "direct_io": asdict(found.direct_io) if found.direct_io else None,
        "strategies": [_row(trial) for trial in probe.trials],
    }


def capabilities(found: Capabilities) -> dict[str, bool]:
    """Return by name what a filesystem can or cannot do."""
    return {
        "fallocate": found.filesystem.fallocate,
        "zero_range": found.zero_range,
        "write_zeroes": found.write_zeroes,
        "punch_hole": found.punch_hole,
        "reflink": found.reflink,
        "unshare": found.unshare,
        "nocow": found.filesystem.nocow,
        "o_tmpfile": found.o_tmpfile,
        "user_xattr": found.filesystem.user_xattr,
        "lease": found.lease,
        "exchange": found.exchange,
        "fiemap": found.fiemap,
    }


def _row(trial: Trial) -> Mapping[str, object]:
    outcome = trial.outcome
    seen, verdict = (outcome.observation, outcome.verdict) if outcome else (None, None)
    return {
        "strategy": trial.strategy,
        "format": str(trial.format),
        "verdict": str(verdict.judgement) if verdict else None,
        "reason": verdict.reason if verdict else None,
        "allocation": str(seen.allocation) if seen else None,
        "mapping": str(seen.mapping) if seen else None,
        "guaranteed": seen.guaranteed if seen else None,
        "exception": seen.exception if seen else None,
        "error": trial.error,
    }
