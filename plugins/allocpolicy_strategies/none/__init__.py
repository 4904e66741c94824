"""none: thin; storage is allocated as the guest writes."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import (
    Attachment,
    DiskFormat,
    Facts,
    Judgement,
    Observation,
    Operation,
    Plan,
    Request,
    Strategy,
    Verdict,
)


class NoneStrategy(Strategy):
    """A qcow2 overlay on the base image, or a sparse raw copy."""

    api_version = 1
    summary = "thin: a qcow2 overlay on the base image, or a sparse raw image"

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Create an overlay; raw has none, so share or copy the base image's data."""
        from allocpolicy_strategies.none import plans  # a disk that meets: none

        if request.format is DiskFormat.RAW:
            return plans.new_raw(request, facts)
        return plans.new_overlay(request, facts)

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        """Give back storage only on request."""
        from allocpolicy_strategies.none import plans

        if request.operation is Operation.RESIZE:
            return plans.grown(request, current)
        if request.allow_thin and plans.is_reserved(current):
            return plans.rewritten(current, facts)
        return plans.amended(current)

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Accept any disk: thin promises nothing."""
        return Verdict(judgement=Judgement.MEETS, reason="thin promises nothing")

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Let the guest's discards give storage back, and keep their clusters.

        A qcow2 that reuses clusters elsewhere outgrows its fully allocated size.
        """
        return Attachment(
            discard="unmap",
            detect_zeroes="off",
            cache="none",
            io="native",
            discard_no_unref=True,
        )
