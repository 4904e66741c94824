"""Jobs as the operations build them, for strategies and plans that are a test's own."""

from __future__ import annotations

from pathlib import Path

from allocpolicy import (
    Access,
    DiskFormat,
    DiskRole,
    Facts,
    Observation,
    Operation,
    Policy,
    Request,
    Strategy,
)
from allocpolicy.execute.hold import Hold
from allocpolicy.execute.job import Job
from allocpolicy.observe import host
from allocpolicy.progress import unwatched
from allocpolicy.registry import hooks
from allocpolicy.registry.entry_points import Found
from allocpolicy.registry.installed import Loaded
from allocpolicy.resolve.selection import Origin, Selection
from tests.harness.directory import open_directory

FOUND = Found(name="theirs", target="theirs:Theirs", distribution="d", version="1")


def job(
    destination: Path,
    *,
    strategy: Strategy,
    policy: Policy,
    size: int,
    access: Access,
    disk: Hold | None = None,
    current: Observation | None = None,
) -> Job:
    """Return the job of a raw disk: a new one, or the one that is held."""
    selection = Selection(
        strategy=FOUND.name,
        loaded=Loaded(
            found=FOUND,
            strategy=strategy,
            api_version=1,
            summary=strategy.summary,
            options_schema=strategy.options_schema,
            takes=hooks.accepted(strategy),
        ),
        options={},
        origin=Origin(key="strategy", source="test"),
        option_origins={},
    )
    directory = open_directory(destination.parent)
    return Job(
        request=Request(
            operation=Operation.APPLY if disk else Operation.PROVISION,
            destination=destination,
            virtual_size=size,
            format=DiskFormat.RAW,
            disk_role=DiskRole.ROOT,
        ),
        facts=Facts(host=host.storage(directory, policy=policy).host, base=None),
        current=current,
        directory=directory,
        requested=selection,
        selection=selection,
        policy=policy,
        access=access,
        watch=unwatched,
        disk=disk,
    )
