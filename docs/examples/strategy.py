"""A strategy: raw disks that are reserved up to a share, and thin beyond."""

from collections.abc import Mapping

from allocpolicy import (
    API_VERSIONS,
    NO_OPTIONS,
    Attachment,
    CreateRaw,
    DiskFormat,
    Facts,
    Host,
    Judgement,
    Mode,
    Observation,
    Operation,
    Plan,
    PlanError,
    Request,
    Reserve,
    Strategy,
    Unsupported,
    Verdict,
    check_plan,
)
from allocpolicy.testing import facts_on, host_on, observation, request


class Half(Strategy):
    """The first half of the disk has storage."""

    api_version = 1
    summary = "reserve the first half of the disk"
    options_schema = NO_OPTIONS

    def observe(self, *, host: Host) -> Mapping[str, object]:
        """Return what the plan needs beyond the facts."""
        return {"free": host.filesystem.free}

    def plan(self, *, request: Request, facts: Facts) -> Plan:
        """Return the steps to a new disk."""
        if request.format is not DiskFormat.RAW or request.base is not None:
            raise PlanError("half makes empty raw disks only")
        if not facts.host.filesystem.fallocate:
            raise Unsupported(facts.host.directory, "there is no fallocate")
        half = request.virtual_size // 2
        create = CreateRaw(virtual_size=request.virtual_size)
        return Plan(
            mode=Mode.STAGED,
            steps=(create, Reserve(length=half)),
            peak_bytes=half,
            promised_bytes=request.virtual_size,
            reserved_bytes=half,
        )

    def verify(self, *, observation: Observation) -> Verdict:
        """Judge by the storage that the disk has."""
        held = observation.actual_size * 2 >= observation.virtual_size
        reason = f"{observation.actual_size} bytes have storage"
        judgement = Judgement.MEETS if held else Judgement.DRIFTED
        return Verdict(judgement=judgement, reason=reason)

    def attach(self) -> Attachment:
        """Keep the storage that is there."""
        return Attachment(
            discard="ignore", detect_zeroes="off", cache="none", io="native"
        )


assert Half.api_version in API_VERSIONS
asked = request(DiskFormat.RAW, operation=Operation.PROVISION, virtual_size=1 << 30)
facts = facts_on("ext4", observed=Half().observe(host=host_on("ext4")))
plan = check_plan(Half().plan(request=asked, facts=facts), request=asked, facts=facts)
assert plan.reserved_bytes == 512 << 20
thin = observation(DiskFormat.RAW)
assert Half().verify(observation=thin).judgement is Judgement.DRIFTED
