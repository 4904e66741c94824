"""What nova-compute's process and the worker beside it say to each other."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


class Work(enum.StrEnum):
    """What is to be done with a disk."""

    MAKE = "make"  #: it isn't there yet
    BRING = "bring"  #: it is there, and is brought to its policy, and grown


class Why(enum.StrEnum):
    """What a refusal is about, as far as it matters to Nova."""

    POLICY = "policy"  #: what the flavor asks for; every host would refuse it
    DISK = "disk"  #: this disk, or the image that it starts from
    ROOM = "room"  #: this host's storage: too little, or too simple
    FAULT = "fault"  #: anything else: the host's configuration, a plugin, our bug


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One piece of work; paths are as Nova has them."""

    work: Work
    disk: str
    disk_role: str
    flavor: str  #: the flavor's name
    extra_specs: Mapping[str, str]
    #: bytes that the guest is to see; None: as many as the base image has
    virtual_size: int | None = None
    base: str | None = None  #: what the disk is made from, or has below it
    base_format: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a task: a strategy, or a refusal in one line."""

    strategy: str | None = None  #: the one that made the disk, or changed it
    why: Why | None = None
    refusal: str = ""


def written(said: Task | Answer) -> str:
    """Return a task or an answer as JSON."""
    return json.dumps(asdict(said))


def read_task(text: str) -> Task:
    """Return the task in some JSON."""
    fields = json.loads(text)
    return Task(**fields | {"work": Work(fields["work"])})


def read_answer(text: str) -> Answer:
    """Return the answer in some JSON.

    :raises ValueError: when there is none, or one of another version.
    """
    try:
        fields = json.loads(text)
        why = fields["why"]
        return Answer(**fields | {"why": None if why is None else Why(why)})
    except (KeyError, TypeError) as error:
        raise ValueError(f"no answer: {text!r}") from error
