"""The contract of a strategy: what a plugin receives, and what it returns.

The contract is versioned: a strategy says which version it is written for, and a host
accepts those in `API_VERSIONS`. Everything in it is importable from ``allocpolicy``. A
strategy is an entry point in the group ``allocpolicy.strategies`` whose target is a
`Strategy` subclass that needs no arguments.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from allocpolicy.contract.facts import BaseImage, DiskFormat, Facts, Host, Observation
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.errors import PlanError

API_VERSIONS = range(1, 2)

NO_OPTIONS: Mapping[str, object] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
NO_LABELS: Mapping[str, str] = ReadOnly()


class Operation(enum.StrEnum):
    """What is being done to the disk."""

    PROVISION = "provision"
    APPLY = "apply"
    RESIZE = "resize"


class DiskRole(enum.StrEnum):
    """Which of the instance's disks it is."""

    ROOT = "root"
    EPHEMERAL = "ephemeral"
    SWAP = "swap"


class Judgement(enum.StrEnum):
    """Whether a disk keeps its promise."""

    MEETS = "meets"
    DRIFTED = "drifted"
    UNVERIFIABLE = "unverifiable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is requested. ``virtual_size`` is in bytes, a multiple of 512.

    ``base`` is what a new disk starts from. ``allow_thin``: an existing disk may give
    back storage that it doesn't need. ``labels`` are the user's own words about the
    disk, such as its tenant; those of an existing disk's stamp are its owner's. In a
    ``trial`` the disk is only tried and never gets a name: take nothing that is scarce.
    """

    operation: Operation
    destination: Path
    virtual_size: int
    format: DiskFormat
    disk_role: DiskRole
    base: BaseImage | None = None
    allow_thin: bool = False
    labels: Mapping[str, str] = field(default=NO_LABELS)
    trial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A strategy's judgement of a disk, and why."""

    judgement: Judgement
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """How a VM must attach the disk to keep the promise.

    The names are those of QEMU's options; sizes are bytes. A strategy says what its
    promise needs: ``cache`` and ``io`` are what it prefers, and where the disk's
    storage can't do that, the host takes the nearest that starts a VM.

    ``discard_no_unref``: the guest's discards give storage back, but keep the clusters
    that held it (qcow2 only); the host leaves it out unless the operator says that the
    VM's programs know it. ``discard_granularity``: the smallest discard that has an
    effect, told to the guest; None: the cluster size of a qcow2 that passes discards
    on, otherwise QEMU's default. ``l2_cache_size``: None if QEMU's default is enough.
    """

    discard: str
    detect_zeroes: str
    cache: str
    io: str
    l2_cache_size: int | None = None
    discard_no_unref: bool = False
    discard_granularity: int | None = None


class Strategy(abc.ABC):
    """Decides how a disk is allocated.

    ``api_version`` is the version of the contract that the class is written for, in its
    own words: ``api_version = 1``. ``options`` always maps every option in
    ``options_schema`` to a valid value, defaults included; like all mappings here, it
    is read-only. A hook may leave out arguments that it has no use for: the host passes
    those that its signature takes.
    """

    api_version: ClassVar[int]
    summary: ClassVar[str]
    options_schema: ClassVar[Mapping[str, object]] = NO_OPTIONS

    def observe(
        self, *, request: Request, options: Mapping[str, object], host: Host
    ) -> Mapping[str, object]:
        """Return further facts that the plan needs: read-only, the only I/O."""
        return {}

    @abc.abstractmethod
    def plan(
        self, *, request: Request, options: Mapping[str, object], facts: Facts
    ) -> Plan:
        """Return how to make a new disk: pure, without I/O, configuration or clock.

        :raises PlanError: when no storage could fulfil the request.
        :raises Unsupported: when this storage cannot; a fallback may be used.
        """

    def amend(
        self,
        *,
        request: Request,
        current: Observation,
        options: Mapping[str, object],
        facts: Facts,
    ) -> Plan:
        """Return how to bring an existing disk to its policy, or grow it; as pure.

        It is asked only if `verify` doesn't accept the disk, if it is to grow, or if
        storage may be given back. What the guest has written must stay.

        :param current: the disk as it is.
        :raises PlanError: when it can't be done; by default always.
        :raises Unsupported: when this storage cannot; a fallback may be used.
        """
        raise PlanError(KEEPS_OFF)

    @abc.abstractmethod
    def verify(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Verdict:
        """Judge whether the disk keeps the promise; an audit has no request."""

    @abc.abstractmethod
    def attach(
        self, *, options: Mapping[str, object], observation: Observation
    ) -> Attachment:
        """Return how a VM must attach the disk to keep the promise."""

    def exclusive(
        self, *, request: Request, options: Mapping[str, object]
    ) -> str | None:
        """Return the name of the lock that the work needs, None for none; pure.

        The framework holds it from `observe` until the disk is published, so that what
        was observed and counted is still so. All strategies share the names: begin it
        with your strategy's own.
        """
        return None

    def migrate(
        self, *, options: Mapping[str, object], version: str | None
    ) -> Mapping[str, object]:
        """Return today's options for those that a stamp records; pure.

        It is asked where another version of the distribution wrote the stamp. What it
        leaves out gets its default; what it returns must be valid.

        :param version: that distribution's version; None if it isn't known.
        """
        return options


KEEPS_OFF = "this strategy does not change existing disks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A strategy's name and its options, and the distribution that it came from.

    The distribution and its version don't count when choices are compared.
    """

    strategy: str
    options: Mapping[str, object]
    distribution: str | None = field(default=None, compare=False)
    version: str | None = field(default=None, compare=False)
