"""The strategy ``pool``: a new disk is a file that was made and written beforehand.

It promises what ``performance`` with ``data = full`` does, and keeps it by the same
means: only where a new disk comes from is the pool's own business.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from allocpolicy import (
    Adopt,
    Attachment,
    Delegate,
    Facts,
    Host,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Progress,
    Replan,
    Request,
    Strategy,
    Target,
    Unsupported,
    Verdict,
    delegate,
)
from allocpolicy_pool import directory, ready
from allocpolicy_pool.directory import Distrusted, NoPool
from allocpolicy_pool.ready import Kind
from allocpolicy_pool.size import as_argument


@dataclass(frozen=True, kw_only=True)
class Take(Adopt):
    """Afterwards the disk is a ready-made one, as `Pool.observe` has seen it.

    Whoever owns a directory above the pool can lead its path to another file by now.
    """

    def run(self, target: Target, progress: Progress) -> None:
        """Adopt the file, and look at it by its descriptor.

        :raises Replan: when it isn't what was looked at before.
        """
        Adopt.run(self, target, progress)
        found = ready.entry(self.path.name, os.fstat(target.fd))
        if found.problem is not None:
            raise Replan(f"{self.path}: {found.problem}", self.path)


class Pool(Strategy):
    """Hands out ready-made disks; whoever changes one later writes what is missing."""

    api_version = 1
    summary = "ready-made: disks that were fully written before they are needed"

    def observe(
        self, *, request: Request, options: Mapping[str, object], host: Host
    ) -> Mapping[str, object]:
        """Return the ready-made disks that would do, or why there is no pool."""
        if not _takes_one(request):
            return {}
        try:
            with directory.nearest(host.directory) as (pool, fd):
                found = ready.entries(fd, kind=_kind(request))
                paths = tuple(str(pool / one.name) for one in found if one.ready)
                return {"pool": str(pool), "ready": paths}
        except Distrusted as error:
            return {"unused": str(error)}
        except NoPool as error:
            return {"problem": str(error)}

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Take a ready-made disk; make one for the pool itself, and for a trial."""
        if request.base is not None:
            raise PlanError(
                "strategy pool hands out empty disks, and this one has a base image:"
                " choose another strategy for it"
            )
        if not _takes_one(request):
            return _written().plan(request=request, facts=facts)
        kind = _kind(request)
        return Plan(
            mode=Mode.STAGED,
            steps=(Take(path=_chosen(kind, facts)),),
            peak_bytes=0,
            promised_bytes=kind.file_size,
            written=True,
        )

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        """Write what isn't written yet, without taking anything from the pool."""
        return _written().amend(request=request, current=current, facts=facts)

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Expect the whole disk to be written."""
        return _written().verify(observation=observation)

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Keep the guest's discards from punching holes."""
        return _written().attach(observation=observation)

    def exclusive(
        self, *, request: Request, options: Mapping[str, object]
    ) -> str | None:
        """Hand out disks of one kind one after another, a few milliseconds each."""
        if not _takes_one(request):
            return None
        return f"pool-{request.virtual_size}-{request.format}"


@functools.cache
def _written() -> Delegate:
    """Return the strategy whose promise a ready-made disk keeps.

    Once: finding it reads what is installed, which plans should not do each time.
    """
    return delegate("performance", {"data": "full"})


def _takes_one(request: Request) -> bool:
    """Return whether the request takes a disk from the pool."""
    new = request.operation is Operation.PROVISION
    for_the_pool = request.destination.parent.name == directory.NAME
    return new and not (request.trial or for_the_pool)


def _kind(request: Request) -> Kind:
    return Kind(virtual_size=request.virtual_size, format=request.format)


def _chosen(kind: Kind, facts: Facts) -> Path:
    """Return the first ready-made disk that nobody else has taken.

    :raises Unsupported: when there is none: another strategy can do it, or a fill.
    """
    paths = map(Path, cast(tuple[str, ...], facts.observed.get("ready", ())))
    for path in paths:
        if path not in facts.lost:
            return path
    raise Unsupported(facts.host.directory, _lack(kind, facts))


def _lack(kind: Kind, facts: Facts) -> str:
    """Return which disk is missing, where, and the command that makes some."""
    if unused := facts.observed.get("unused"):  # a fill would refuse it, too
        return str(unused)
    found, size = facts.observed.get("pool"), as_argument(kind.virtual_size)
    lacking, where = facts.observed.get("problem"), facts.host.directory
    if found:
        lacking = f"no ready-made {kind.format} disk of {size} is left in {found}"
        where = Path(str(found)).parent
    return (
        f"{lacking or 'no pool was looked for'}; make some: allocpolicy pool fill"
        f" {shlex.quote(str(where))} --size {size} --disk-format {kind.format}"
        " --count 10"
    )
