"""What a directory's filesystem holds and was promised, and what still may be."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from allocpolicy import account, admission
from allocpolicy.account import Account
from allocpolicy.errors import InvalidRequest, format_size
from allocpolicy.facts import Limits
from allocpolicy.policy import Policy
from allocpolicy.storage import directories, filesystem, quota
from allocpolicy.storage.filesystem import Identity
from allocpolicy.storage.quota import Quota, QuotaType


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The account of a filesystem, and what bears on it."""

    directory: Path
    filesystem: Identity
    quotas: dict[QuotaType, Quota]
    account: Account
    limits: Limits

    @property
    def outlook(self) -> str:
        """Say what would happen if every disk were filled."""
        spare = self.account.free - self.account.promised
        if spare < 0:
            return f"the filesystem would be short of {format_size(-spare)}"
        return f"all of them fit, with {format_size(spare)} to spare"


def of(directory: Path, *, policy: Policy) -> Capacity:
    """Return the capacity of the directory's filesystem; nothing is written.

    :raises InvalidRequest: when the directory cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        try:
            fd = stack.enter_context(directories.opened(directory))
        except OSError as error:
            raise InvalidRequest(f"directory {directory}: {error.strerror}") from error
        return Capacity(
            directory=Path(os.path.realpath(directory)),
            filesystem=filesystem.identify(fd),
            quotas=quota.quotas(fd),
            account=account.take(directory, disk_directories=policy.disk_directories),
            limits=policy.limits,
        )


def as_document(capacity: Capacity) -> dict[str, object]:
    """Return the capacity as JSON data, valid against schemas/capacity.json."""
    taken, limits = capacity.account, capacity.limits
    quotas = {kind.name.lower(): None for kind in QuotaType} | {
        kind.name.lower(): asdict(one) for kind, one in capacity.quotas.items()
    }
    return {
        "directory": str(capacity.directory),
        "filesystem": capacity.filesystem.type,
        "key": capacity.filesystem.key,
        "quota": quotas if capacity.quotas else None,
        **asdict(taken),
        "shortfall": taken.shortfall,
        "overcommit_ratio": taken.overcommit_ratio,
        "max_overcommit_ratio": limits.max_overcommit_ratio or None,
        "reserved_host_disk": limits.reserved_host_disk,
        "left": admission.left(taken, limits=limits),
        "outlook": capacity.outlook,
    }
