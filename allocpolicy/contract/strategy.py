"""The contract of a strategy: what a plugin receives, and what it returns.

The contract is versioned by `API_VERSION`; everything in it is importable from
``allocpolicy``. A strategy is an entry point in the group ``allocpolicy.strategies``
whose target is a `Strategy` subclass that needs no arguments.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from allocpolicy.contract.facts import BaseImage, DiskFormat, Facts, Host, Observation
from allocpolicy.contract.plan import Plan

API_VERSION = 1

NO_OPTIONS: Mapping[str, object] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}


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
    """What is requested. ``virtual_size`` is in bytes, a multiple of 512."""

    operation: Operation
    destination: Path
    virtual_size: int
    format: DiskFormat
    disk_role: DiskRole
    base: BaseImage | None = None
    current: Observation | None = None
    allow_thin: bool = False


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

    ``options`` always maps every option in ``options_schema`` to a valid value,
    defaults included.
    """

    api_version: ClassVar[int] = API_VERSION
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
        """Return what to do: pure, without I/O, configuration or clock.

        :raises PlanError: when no storage could fulfil the request.
        :raises Unsupported: when this storage cannot; a fallback may be used.
        """

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A strategy's name and its options."""

    strategy: str
    options: Mapping[str, object]
