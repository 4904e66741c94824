"""space: storage for the whole disk is reserved when the disk is created."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import (
    Allocation,
    Attachment,
    Facts,
    Judgement,
    Observation,
    Operation,
    Plan,
    Request,
    Strategy,
    Unsupported,
    Verdict,
)

_JUDGEMENTS = {  # of others, a newer allocpolicy's too, nothing is known
    Allocation.THIN: Judgement.DRIFTED,
    Allocation.RESERVED: Judgement.MEETS,
    Allocation.WRITTEN: Judgement.MEETS,
}


class Space(Strategy):
    """Every byte of the disk has storage of its own, and headroom is free."""

    api_version = 1
    summary = "reserved: storage for the whole disk is the disk's own from the start"
    options_schema = {
        "type": "object",
        "properties": {
            "reserve": {
                "type": "string",
                "enum": ["fallocate", "zero-fill"],
                "default": "fallocate",
                "description": (
                    "How storage is reserved: fallocate(2), or by writing zeroes to"
                    " all of it, which also works where fallocate does not (ext2)."
                ),
            }
        },
        "additionalProperties": False,
    }

    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Reserve the whole disk before anything is copied into it."""
        from allocpolicy_strategies.space import plans  # a disk that meets: none

        fill = _fills(options)
        _refuse_unsupported(facts, fill=fill)
        return plans.new(request, facts, fill=fill)

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        """Reserve what has no storage; rewrite what is not the disk's own."""
        from allocpolicy_strategies.space import plans

        fill = _fills(options)
        _refuse_unsupported(facts, fill=fill)
        if facts.must_copy(current):
            return plans.rewritten(request, current, facts, fill=fill)
        if request.operation is Operation.RESIZE:
            return plans.grown(request, current, fill=fill)
        return plans.amended(request, current, fill=fill)

    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Expect the whole disk to be reserved or written."""
        allocation = observation.allocation
        reason = f"allocation is {allocation}"
        if observation.exception:
            reason += f"; {observation.exception}"
        judgement = _JUDGEMENTS.get(allocation, Judgement.UNVERIFIABLE)
        return Verdict(judgement=judgement, reason=reason)

    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Keep the guest's discards and zeroes from punching holes."""
        return Attachment(
            discard="ignore", detect_zeroes="off", cache="none", io="native"
        )


def _fills(options: Mapping[str, object]) -> bool:
    return options["reserve"] == "zero-fill"


def _refuse_unsupported(facts: Facts, *, fill: bool) -> None:
    filesystem = facts.host.filesystem
    if not fill and not filesystem.fallocate:
        reason = (
            f"{filesystem.type} can't reserve storage with fallocate; set"
            " allocpolicy:space.reserve = zero-fill, or on_unsupported = fallback"
        )
        raise Unsupported(facts.host.directory, reason)
