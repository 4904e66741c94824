"""The capacity: what a filesystem holds, what it promised, and what it may promise."""

from __future__ import annotations

from pathlib import Path

from allocpolicy.contract.facts import Limits
from allocpolicy.execute import admission
from allocpolicy.observe import unknown as unknowns
from allocpolicy.observe.account import Account
from allocpolicy.observe.ledger import Entry
from allocpolicy.record import asdict, dataclass, field
from allocpolicy.storage.mount import Identity
from allocpolicy.storage.quota import Quota, QuotaType
from allocpolicy.wording import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The account of a filesystem, the limits that apply to it, and what it counts."""

    directory: Path  #: the directory that was asked about
    filesystem: Identity  #: its type and its key
    quotas: dict[QuotaType, Quota]  #: those that apply to new files; empty: none does
    account: Account  #: what is there, and what is promised, in bytes
    limits: Limits  #: what may be promised
    #: every file, and as what it counts; not in what a shell shows of the record
    entries: tuple[Entry, ...] = field(default=(), repr=False)

    @property
    def outlook(self) -> str:
        """Say what would happen if every disk were filled."""
        spare = self.account.free - self.account.promised
        said = unknowns.said(self.account.unknown)
        if spare < 0:
            more = f", or more: {said}" if said else ""
            return f"the filesystem would be short of {format_size(-spare)}{more}"
        if said:
            known = f"what is known fits, with {format_size(spare)} to spare"
            return f"it isn't known: {known}; {said}"
        return f"all of them fit, with {format_size(spare)} to spare"

    def as_document(self, *, listed: bool = False) -> dict[str, object]:
        """Return the object that ``-f json`` prints: schemas/capacity.json.

        :param listed: with every file, and as what it counts.
        """
        taken, limits = self.account, self.limits
        quotas = {kind.name.lower(): None for kind in QuotaType} | {
            kind.name.lower(): asdict(one) for kind, one in self.quotas.items()
        }
        return {
            "directory": str(self.directory),
            "filesystem": self.filesystem.type,
            "key": self.filesystem.key,
            "quota": quotas if self.quotas else None,
            **asdict(taken),
            "unknown": [asdict(one) | {"why": str(one.why)} for one in taken.unknown],
            "shortfall": taken.shortfall,
            "fits": taken.fits,
            "overcommit_ratio": taken.overcommit_ratio,
            "max_overcommit_ratio": limits.max_overcommit_ratio or None,
            "reserved_host_disk": limits.reserved_host_disk,
            "left": admission.left(taken, limits=limits),
            "outlook": self.outlook,
            "listed": self._listed() if listed else None,
        }

    def _listed(self) -> list[dict[str, object]]:
        return [
            {
                "path": one.path,
                "kind": str(one.kind),
                "virtual_size": one.virtual_size,
                "actual_size": one.actual_size,
                "promised": one.promised,
                "unknown": one.unknown and str(one.unknown),
            }
            for one in sorted(self.entries, key=lambda entry: entry.path)
        ]
