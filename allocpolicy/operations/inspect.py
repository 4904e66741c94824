"""Looking at an existing disk, which nobody vouches for: read-only, without locks."""

from __future__ import annotations

from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice
from allocpolicy.images import existing
from allocpolicy.observe import disk as observe
from allocpolicy.observe.surroundings import surroundings
from allocpolicy.registry.judge import Judge
from allocpolicy.report.inspection import Inspection


def inspect(
    disk: existing.Disk,
    *,
    given: Choice | None,
    policy: Policy,
) -> Inspection:
    """Return what an open disk is, judged by its stamp, or by the given choice.

    :raises ImageError: when it is malformed.
    """
    found = observe.look(
        disk.fd,
        path=disk.path,
        format=disk.format,
        surroundings=surroundings(disk.fd, directory=disk.path.parent, policy=policy),
    )
    observed = found.observation
    choice = disk.stamp.effective if disk.stamp else given
    judge = Judge()
    return Inspection(
        disk=disk.path,
        stamp=disk.stamp,
        observed=observed,
        verdict=judge.verdict(choice, observed) if choice else None,
        attachment=judge.attachment(choice, observed) if choice else None,
    )
