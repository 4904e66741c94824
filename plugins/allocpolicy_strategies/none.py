"""none: thin; storage is allocated as the guest writes."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import (
    Attachment,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    Facts,
    Judgement,
    Mode,
    Observation,
    Plan,
    Request,
    Sharing,
    Step,
    Strategy,
    Verdict,
    fully_allocated_size,
    thin_size_bound,
)


class NoneStrategy(Strategy):
    """A qcow2 overlay on the base image, or a sparse raw copy."""

    summary = "thin: a qcow2 overlay on the base image, or a sparse raw image"

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Create, and copy the base image's data where raw has no overlays."""
        size, base = request.virtual_size, facts.base
        if request.format is DiskFormat.QCOW2:
            return Plan(
                mode=Mode.STAGED,
                steps=(CreateQcow2(virtual_size=size, backing=base),),
                peak_bytes=thin_size_bound(size),
                promised_bytes=fully_allocated_size(size),
            )
        steps: list[Step] = [CreateRaw(virtual_size=size)]
        if base:
            sharing = Sharing.SHARED if facts.shares_base else Sharing.ALLOWED
            steps.append(CopyBase(base=base, format=request.format, sharing=sharing))
        return Plan(
            mode=Mode.STAGED,
            steps=tuple(steps),
            peak_bytes=base.data_bytes if base and not facts.shares_base else 0,
            promised_bytes=size,
        )

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Nothing is promised, so that any disk keeps it."""
        return Verdict(judgement=Judgement.MEETS, reason="thin promises nothing")

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Let the guest's discards give storage back."""
        return Attachment(
            discard="unmap", detect_zeroes="off", cache="none", io="native"
        )
