"""Everything that can go wrong, each error with its exit status.

Error                          5
├── InvalidRequest             2  the request itself: sizes, names, owners
│   ├── ConfigError            2  the configuration file or environment
│   ├── DomainError            2  a domain's XML, as libvirt gives it
│   ├── ExtraSpecError         2  an ``allocpolicy:`` key or its value
│   ├── FlavorError            2  a flavors file, or a flavor that is not in it
│   ├── StrategyNotFound       2  no such strategy is installed
│   ├── PlanError              2  the strategy cannot fulfil this request
│   ├── ImageError             2  an unsafe, malformed or busy image
│   │   ├── FormatUnknown      2  a disk without a stamp, and no format was given
│   │   └── OutOfReach         2  a backing file that its disk's owner may not read
│   ├── BeyondLimits           2  a rewrite that whoever asks for the change excludes
│   ├── DestinationError       2  no usable directory for the disk
│   └── DestinationExists      2  provision never overwrites
├── NotEnoughSpace             3  ENOSPC, EDQUOT, or admission
│   ├── NoFreeInodes           3  there is space, but no inode for a file
│   └── Overcommitted          3  max_overcommit_ratio would be exceeded
├── Unsupported                4  this storage cannot do it
├── StorageFailed              5  I/O errors of the device or the filesystem
├── DuplicateStrategy          5  two distributions claim one name
├── StrategyFailed             5  a plugin's code raised, or violates the contract
├── ContractBroken             5  which rule an answer of a plugin breaks
├── PromiseBroken              5  the disk, as observed, does not keep the promise
├── CommandError               5  a program that allocpolicy started failed
├── WorkerLost                 5  a worker process was killed
├── TooMuchWork                5  looking at one disk of many would take too long
├── FailedAfterwards           6  the disk is there; what came after it failed
└── Replan                     5  what the plan relied on is gone; plan again

An error's arguments are positional and reach ``Exception.__init__`` unchanged, which
keeps errors picklable; the message comes from ``template`` and the attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from allocpolicy.wording import amount, apart, one_line, printable, short


class Error(Exception):
    """The root of all errors that allocpolicy raises on purpose."""

    template: ClassVar[str] = "{reason}"
    #: that of a command which it ends
    exit_status: ClassVar[int] = 5

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        #: why, in one line
        self.reason = str(args[-1]) if args else ""
        self.remark = ""  #: what else is to be known, if anything

    def __str__(self) -> str:
        shown = {name: _shown(value) for name, value in vars(self).items()}
        said = self.template.format_map(shown)
        return one_line(f"{said}; {self.remark}" if self.remark else said)


def _shown(value: object) -> object:
    """Return a path with escapes: a line break that is a space names another file."""
    return printable(str(value)) if isinstance(value, Path) else value


class InvalidRequest(Error):
    """The request cannot be fulfilled as written: ``(reason)``."""

    exit_status = 2


class ConfigError(InvalidRequest):
    """The configuration is invalid: ``(reason)``."""

    template = "configuration: {reason}"


class DomainError(InvalidRequest):
    """A domain's XML can't be read, or says what can't be: ``(reason)``."""

    template = "the domain's XML: {reason}"


class ExtraSpecError(InvalidRequest):
    """An extra spec is invalid: ``(key, value, reason)``."""

    template = "extra spec {key} = {value!r}: {reason}"

    def __init__(self, key: str, value: str, reason: str) -> None:
        super().__init__(key, value, reason)
        self.key = key  #: the extra spec's key
        self.value = value  #: what was given


class FlavorError(InvalidRequest):
    """A flavors file is invalid, or lacks the flavor: ``(path, reason)``."""

    template = "flavors file {path}: {reason}"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path  #: the file or directory that it is about


class StrategyNotFound(InvalidRequest):
    """No installed strategy has the name: ``(name, reason)``."""

    template = "strategy {name!r} is not installed: {reason}"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name  #: the strategy's name


class PlanError(InvalidRequest):
    """The strategy cannot fulfil this request on any storage: ``(reason)``."""


class ImageError(InvalidRequest):
    """An image is unsafe, malformed, busy or misdeclared: ``(path, reason)``."""

    template = "image {path}: {reason}"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path  #: the file or directory that it is about


class FormatUnknown(ImageError):
    """A disk has no stamp, and nobody said what its format is: ``(path, reason)``."""


class OutOfReach(ImageError):
    """A backing file is not opened on a disk's word alone: ``(path, reason)``."""


class BeyondLimits(InvalidRequest):
    """A disk must be rewritten, further than it may be: ``(path, reason)``."""

    template = "{path}: it must be rewritten, and may not be: {reason}"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path  #: the file or directory that it is about


class DestinationError(InvalidRequest):
    """The destination has no usable directory: ``(path, reason)``."""

    template = "cannot create {what}{path}: {reason}"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path  #: the file or directory that it is about
        self.what = ""  #: how the path is meant, where it isn't that of the file


class DestinationExists(InvalidRequest):
    """The destination exists, and provision never overwrites: ``(path,)``."""

    template = (
        "cannot create {path}: it exists, and a new disk never overwrites;"
        " remove it or choose another name (allocpolicy inspect shows what it is, for"
        " example after a failure that was reported once it was there)"
    )

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path  #: the file or directory that it is about


class NotEnoughSpace(Error):
    """There is not enough space: ``(path, needed, free, reason)``, sizes in bytes."""

    template = (
        "{path}: not enough space: {numbers}{because};"
        " free some space, or choose a smaller disk or another strategy"
    )
    exit_status = 3

    def __init__(self, path: Path, needed: int, free: int, reason: str = "") -> None:
        super().__init__(path, needed, free, reason)
        self.path = path  #: the file or directory that it is about
        self.needed = needed  #: bytes that the work takes
        self.free = free  #: bytes that are free
        self.needed_text, self.free_text = apart(needed, free)
        self.because = f" ({reason})" if reason else ""
        if needed > free:
            self.numbers = short(needed=needed, free=free)
        else:
            self.numbers = (
                f"the filesystem gives no more, although {self.free_text} are free:"
                " a quota, or its room for metadata, may be used up"
            )


class NoFreeInodes(NotEnoughSpace):
    """There is space, but no file can be made: ``(path, needed, free, reason)``."""

    template = (
        "{path}: no free inodes: {free_text} are free, but no other file can be made"
        "{because}; remove files that aren't needed"
    )


class Overcommitted(NotEnoughSpace):
    """Too much would be promised: ``(path, promise, left, free, ratio, limit)``.

    ``promise`` is what the disk may take, ``left`` what the limit still allows.
    """

    template = (
        "{path}: not enough space: the disk may take up to {needed_text}, and"
        " {left_text} may still be promised, {over_text} less, {free_text} are free:"
        " the over-commit ratio would be {ratio:.6g}, and max_overcommit_ratio allows"
        " {limit:.6g}; free some space, or choose a smaller disk"
    )

    def __init__(
        self,
        path: Path,
        promise: int,
        left: int,
        free: int,
        ratio: float,
        limit: float,
    ) -> None:
        super().__init__(path, promise, free)
        self.args = (path, promise, left, free, ratio, limit)
        self.left = left  #: bytes that may still be promised
        self.needed_text, self.left_text = apart(promise, left)
        self.over_text = amount(promise - left)
        self.ratio = ratio  #: used and promised, as a multiple of the filesystem's size
        self.limit = limit  #: max_overcommit_ratio


class Unsupported(Error):
    """This storage cannot do what a strategy needs: ``(path, reason)``."""

    template = "{path}: this storage cannot do it: {reason}"
    exit_status = 4

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path  #: the file or directory that it is about


class StorageFailed(Error):
    """The storage itself failed: ``(path, reason)``."""

    template = "{path}: the storage failed: {reason}; see the kernel's log"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path  #: the file or directory that it is about


class DuplicateStrategy(Error):
    """More than one distribution claims a name: ``(name, owners)``."""

    template = (
        "strategy {name!r} is claimed by {owned_by}; uninstall all of them but one"
    )

    def __init__(self, name: str, owners: tuple[str, ...]) -> None:
        super().__init__(name, owners)
        self.name = name  #: the strategy's name
        self.owners = owners  #: the distributions
        self.owned_by = " and ".join(owners)


class StrategyFailed(Error):
    """A strategy's code raised or broke the contract: ``(name, owner, hook, reason)``.

    ``owner`` is its distribution, version and entry point; ``hook`` is the method that
    was called, or empty if none was.
    """

    template = "strategy {name!r} of {owner} failed{where}: {reason}"

    def __init__(self, name: str, owner: str, hook: str, reason: str) -> None:
        super().__init__(name, owner, hook, reason)
        self.name = name  #: the strategy's name
        self.owner = owner  #: distribution, version and entry point
        self.hook = hook  #: the method that was called; empty: none was
        self.where = f" in {hook}()" if hook else ""


class ContractBroken(Error):
    """A plan, or another answer of a strategy, breaks a rule: ``(reason)``."""


class PromiseBroken(Error):
    """The disk does not keep the promise: ``(path, strategy, reason, state)``."""

    template = (
        "{path}: the disk does not keep the promise of strategy {strategy!r}:"
        " {reason}; {state}"
    )

    def __init__(
        self,
        path: Path,
        strategy: str,
        reason: str,
        state: str = "nothing was left behind",
    ) -> None:
        super().__init__(path, strategy, reason, state)
        self.path = path  #: the file or directory that it is about
        self.strategy = strategy  #: its name
        self.reason = reason  #: why, in one line
        self.state = state  #: what became of the disk


class CommandError(Error):
    """A program that allocpolicy started failed: ``(command, status, stderr)``.

    ``stderr`` is what it said; the message has it in one line.
    """

    template = "{program} failed with exit status {status}: {reason}"

    def __init__(self, command: tuple[str, ...], status: int, stderr: str) -> None:
        super().__init__(command, status, stderr)
        self.command = command  #: its arguments, the program first
        self.program = " ".join(command[:2])
        self.status = status  #: its exit status; negative: the signal that ended it
        self.reason = " ".join(stderr.split()) or "it said nothing"


class WorkerLost(Error):
    """A worker process died early, for example by the OOM killer: ``(reason)``."""


class FailedAfterwards(Error):
    """The disk is there and complete; what came after it failed: ``(path, reason)``."""

    template = "{path}: the disk is there and complete, but {reason}"
    exit_status = 6

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path  #: the file or directory that it is about


class TooMuchWork(Error):
    """A file would cost more than it may (`storage.effort`): ``(reason)``."""


class Replan(Error):
    """What a plan relied on is gone; plan again: ``(reason, lost)``.

    The next attempt's `Facts.lost` has the path ``lost``, if there is one. After 128
    attempts at one disk the work has failed.
    """

    def __init__(self, reason: str, lost: Path | None = None) -> None:
        super().__init__(reason, lost)
        self.reason = reason  #: why, in one line
        self.lost = lost  #: the file that is gone; None: no file is


def refuse(faults: Iterable[tuple[bool, str]], *, path: Path) -> None:
    """Raise ImageError for the first fault found."""
    for wrong, reason in faults:
        if wrong:
            raise ImageError(path, reason)
