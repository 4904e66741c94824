"""What a directory's storage can do, and which strategies keep their promise on it.

Every installed strategy makes a small disk of each format, the ordinary way: plan,
steps, stamp, sync, observe, verify. Only the name it never gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Facts, Host
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole, Operation, Request
from allocpolicy.errors import Error, StrategyFailed
from allocpolicy.execute import new as execute
from allocpolicy.execute.new import Access, Job, Outcome
from allocpolicy.images import destination
from allocpolicy.images.stamp import Stamp
from allocpolicy.observe import disk as observe
from allocpolicy.operations.data_path import Task, first_supported
from allocpolicy.progress import unwatched
from allocpolicy.registry import installed
from allocpolicy.registry.installed import Loaded
from allocpolicy.report.probe import Probe, Trial
from allocpolicy.resolve import selection as resolve
from allocpolicy.storage import capability

VIRTUAL_SIZE = 4 << 20


def probe(directory: Path, *, policy: Policy) -> Probe:
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
    for name in installed.names():
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
