"""Making disks in a place, as a user would; a refusal means that a law has no subject.

That a strategy refuses everything is not left to these: `serves-new-disks` is a law.
"""

from __future__ import annotations

from allocpolicy import PlanError, Report, Unsupported, provision
from allocpolicy.testing.law import NotApplicable
from allocpolicy.testing.subject import Place


def new_disk(place: Place, *, virtual_size: int | None = None) -> Report:
    """Make the place's disk and return the report.

    :raises NotApplicable: when the strategy, or the storage, refuses this place.
    :raises Error: whatever else `provision` raises.
    """
    try:
        return provision(place.order(virtual_size=virtual_size), policy=place.policy)
    except (PlanError, Unsupported) as refusal:
        raise NotApplicable(str(refusal)) from refusal
