"""What will be done to a disk, in order; printable before it runs."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from allocpolicy.progress import Progress
from allocpolicy.record import dataclass


class Mode(enum.StrEnum):
    """How the executor carries out a plan."""

    STAGED = "staged"  #: build under no name, publish when complete
    IN_PLACE = "in_place"  #: change the disk itself, never backwards
    NOTHING = "nothing"  #: the disk is already as it should be
    #: in reports, never in plans: the disk stays as it is, and what is recorded on it
    #: is changed
    STAMPED = "stamped"


class Target(Protocol):
    """The disk under construction: an open descriptor, never a destination path."""

    @property
    def fd(self) -> int:
        """The descriptor, open for reading and writing."""

    @property
    def directory(self) -> Path:
        """The directory whose filesystem holds the disk, for messages."""

    def adopt(self, path: Path) -> None:
        """Make the ready-made file at ``path`` the disk; atomically, or not at all.

        The file must be on the target's filesystem. Afterwards ``fd`` is that file. It
        keeps its name until the disk is published, so that no failure loses it; no
        step may follow.

        :raises Replan: when another process took the file first, or has it open.
        :raises Unsupported: when it has other names.
        """


@runtime_checkable
class Step(Protocol):
    """One thing to do; third-party steps are treated like bundled ones.

    A step may also have a method ``check(target)``, which changes nothing and raises
    what ``run`` would, as far as that can be known before the plan begins: a dry run
    calls it, too. The target is then the disk as it is, perhaps open only for reading,
    or an empty file if a new one is to be made.

    A step may state these, as attributes; what it doesn't state is not so:

    ``in_place`` (bool): it may run on a disk that exists: what the guest has written
    stays. ``online`` (bool): even while a VM writes to the disk: fallocate(2) of mode 0
    in bounded chunks, and nothing else. ``carries`` (`BaseImage` or None): the image
    that the guest reads afterwards; None where the step empties the disk.
    ``copied_bytes`` (int): how many bytes of that it copies at most, and doesn't share
    with the image; all, if it doesn't say. ``adopts``
    (Path or None): the ready-made file that becomes the disk; such a step is the last
    one. ``recipe`` (str or None): what the step makes, in words that name it, printable
    and at most 2000 characters. The step promises that what it leaves, after the same
    steps, is a function of this text, of its distribution's version, and of the content
    of the image that it ``carries``, and that the disk may share storage with others of
    the same recipe. A clock, the host, chance or the target's directory must not
    matter. Where all steps of a new disk state one, and nothing is reserved or written,
    the disk may be cloned from one that was made before: ``run`` isn't called then.

    A class with a ``run`` of its own also states ``in_place``, ``online`` and
    ``recipe`` itself: what another distribution's class says of its ``run`` counts no
    more.
    """

    __slots__ = ()

    def describe(self) -> str:
        """Return one line for the user: what is true after the step."""

    def run(self, target: Target, progress: Progress) -> None:
        """Carry out the step.

        :raises Unsupported: when the storage cannot do it.
        :raises NotEnoughSpace: on ENOSPC or EDQUOT.
        :raises Replan: when another process took what the plan relied on.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps that create or change a disk, and what they cost.

    Sizes are bytes on the destination's filesystem, each at most the next: reserved,
    peak, promised. The executor serializes plans that reserve on a filesystem and keeps
    headroom free for them. `check_plan` has the rules.
    """

    mode: Mode  #: how it is carried out
    steps: tuple[Step, ...]  #: what is done, in this order; empty if nothing is
    peak_bytes: int  #: the most bytes that the steps allocate while they run
    #: the bytes that the disk may take once the guest has written all of it
    promised_bytes: int
    reserved_bytes: int = 0  #: how many bytes of that the steps reserve at once
    written: bool = False  #: the result is fully written: it needs less headroom
    #: in place, it is safe while a VM writes to the disk, as each of its steps states
    online: bool = False
    reason: str = ""  #: why it is planned like this, for people; may be empty
