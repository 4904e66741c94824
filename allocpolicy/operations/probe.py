"""What a directory's storage can do, and which strategies keep their promise on it.

Every installed strategy creates a small disk of each format in the usual way: plan,
steps, stamp, sync, observe, verify. The disk never gets a name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat, Facts
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import DiskRole, Operation, Request
from allocpolicy.errors import Error, InvalidRequest
from allocpolicy.execute.job import Access, Job, Outcome
from allocpolicy.images.destination import Destination
from allocpolicy.observe import host
from allocpolicy.operations.data_path import carry_out
from allocpolicy.progress import unwatched
from allocpolicy.record import replace
from allocpolicy.registry import installed
from allocpolicy.report.probe import Probe, Trial
from allocpolicy.resolve.selection import resolve
from allocpolicy.storage import below, capability, directories
from allocpolicy.storage.directories import Directory
from allocpolicy.storage.failure import named, refuse_failure

VIRTUAL_SIZE = 4 << 20


def probe(directory: Path, *, policy: Policy) -> Probe:
    """Return what the directory's storage can do; nothing is left in it.

    :raises InvalidRequest: when the directory can't be opened.
    :raises DestinationError: when no file can be created there.
    """
    with named(directory, action="try what it can do"), _opened(directory) as opened:
        place = Destination(path=opened.path / "disk", directory=opened)
        found = host.storage(opened, policy=policy)
        alone = replace(policy, on_unsupported="fail")
        facts = Facts(host=found.host, base=None)
        return Probe(
            directory=opened.path,
            capabilities=capability.find(opened),
            below=below.layers(opened.fd),
            trials=tuple(_trials(place, facts=facts, policy=alone)),
        )


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[Directory]:
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(directories.opened(directory))
        except OSError as error:
            refuse_failure(error, path=directory, action="open the directory")
            raise InvalidRequest(f"directory {directory}: {error.strerror}") from error
        yield opened


def _trials(disk: Destination, *, facts: Facts, policy: Policy) -> Iterator[Trial]:
    for name in installed.names():
        of_strategy = replace(policy, default_strategy=name)
        for format in DiskFormat:
            outcome = error = None
            try:
                with named(disk.directory.path, action=f"try {name}"):
                    outcome = _try(disk, format=format, facts=facts, policy=of_strategy)
            except Error as problem:
                error = str(problem)
            yield Trial(strategy=name, format=format, outcome=outcome, error=error)


def _try(
    disk: Destination, *, format: DiskFormat, facts: Facts, policy: Policy
) -> Outcome | None:
    selection = resolve(policy=policy, disk_role=DiskRole.ROOT)
    job = Job(
        request=Request(
            operation=Operation.PROVISION,
            destination=disk.path,
            virtual_size=VIRTUAL_SIZE,
            format=format,
            disk_role=DiskRole.ROOT,
            trial=True,
        ),
        facts=facts,
        directory=disk.directory,
        requested=selection,
        selection=selection,
        policy=policy,
        access=Access(),
        watch=unwatched,
        trial=True,
    )
    return carry_out(job).outcome
