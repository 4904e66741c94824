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
from pathlib import Path
from typing import ClassVar

from allocpolicy.contract.facts import BaseImage, DiskFormat, Facts, Host, Observation
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.errors import PlanError
from allocpolicy.fields import fit_fields
from allocpolicy.record import dataclass, field

#: the versions of the contract that this host accepts
API_VERSIONS = range(1, 2)

#: the schema of a strategy without options
NO_OPTIONS: Mapping[str, object] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
NO_LABELS: Mapping[str, str] = ReadOnly()


class Operation(enum.StrEnum):
    """What is being done to the disk."""

    PROVISION = "provision"  #: a new disk is made
    APPLY = "apply"  #: an existing disk is brought to its policy
    RESIZE = "resize"  #: an existing disk is grown


class DiskRole(enum.StrEnum):
    """Which of the instance's disks it is."""

    ROOT = "root"  #: the disk that it boots from
    EPHEMERAL = "ephemeral"  #: a further disk, gone with the instance
    SWAP = "swap"  #: its swap space


class Judgement(enum.StrEnum):
    """Whether a disk keeps its promise."""

    MEETS = "meets"  #: it does
    DRIFTED = "drifted"  #: it doesn't, or no longer
    UNVERIFIABLE = "unverifiable"  #: the storage doesn't show whether it does


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is requested."""

    operation: Operation  #: what is being done
    destination: Path  #: the disk's path
    virtual_size: int  #: the bytes that the guest is to see, a multiple of 512
    format: DiskFormat  #: the format that the disk is to have
    disk_role: DiskRole  #: which of the instance's disks it is
    base: BaseImage | None = None  #: what a new disk starts from; None: from nothing
    #: an existing disk may give back storage that it doesn't need
    allow_thin: bool = False
    #: the user's own words about the disk, such as its tenant; those of an existing
    #: disk's stamp are its owner's
    labels: Mapping[str, str] = field(default=NO_LABELS)
    #: the disk is only tried and never gets a name: take nothing that is scarce
    trial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A strategy's judgement of a disk, and why."""

    judgement: Judgement  #: whether it keeps the promise
    reason: str  #: why, in one line for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """How a VM must attach the disk to keep the promise.

    The names are those of QEMU's options. A strategy says what its promise needs; where
    the disk's storage can't do it, the host takes the nearest that starts a VM.
    """

    #: ``unmap``: the guest's discards give storage back; ``ignore``: they don't
    discard: str
    #: what becomes of zeroes that are written: ``off``, ``on`` or ``unmap``
    detect_zeroes: str
    cache: str  #: the preferred cache mode, such as ``none``
    io: str  #: the preferred way of I/O: ``native``, ``io_uring`` or ``threads``
    #: bytes of the L2 cache; None: QEMU's default is enough
    l2_cache_size: int | None = None
    #: discards give storage back, but keep the clusters that held it (qcow2 only); left
    #: out unless the operator says that the VM's programs know it
    discard_no_unref: bool = False
    #: bytes of the smallest discard that has an effect, told to the guest; None: the
    #: cluster size of a qcow2 that passes discards on, otherwise QEMU's default
    discard_granularity: int | None = None


class Strategy(abc.ABC):
    """Decides how a disk is allocated.

    ``api_version`` is the version of the contract that the class is written for, in its
    own words: ``api_version = 1``. ``options`` always maps every option in
    ``options_schema`` to a valid value, defaults included; like all mappings here, it
    is read-only. A hook may leave out arguments that it has no use for: the host passes
    those that its signature takes.
    """

    api_version: ClassVar[int]  #: the version of the contract, as a literal: 1
    summary: ClassVar[str]  #: one line that says what the strategy promises
    #: a JSON schema of its options: an object
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
    """A strategy and its options; where it came from doesn't count in comparisons."""

    strategy: str  #: the strategy's name
    options: Mapping[str, object]  #: all of its options
    #: the distribution that it came from; None: not known
    distribution: str | None = field(default=None, compare=False)
    #: that distribution's version; None: not known
    version: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        fit_fields(self)
