"""The strategy that the suite is run on, and the places where its disks are made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

from allocpolicy import Change, DiskFormat, Order, Policy, PreparedDisks, Strategy
from allocpolicy.record import dataclass, field, replace
from allocpolicy.registry import hooks, installed
from allocpolicy.registry.installed import Loaded
from allocpolicy.testing import options
from allocpolicy.testing.base_images import BaseFile

Options = Mapping[str, object]
Environment = Callable[[Path], AbstractContextManager[object]]


def as_it_is(directory: Path) -> AbstractContextManager[object]:
    """Set nothing up: the environment of a strategy that needs nothing."""
    return contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A loaded strategy, and what its author says of it.

    ``option_sets`` are complete and valid, the defaults first. ``environment`` is
    entered around each law with the directory in which disks are made: what the
    strategy needs outside of itself (variables, a pool). ``waived`` maps names of laws
    that it is known to break to the reason.
    """

    loaded: Loaded
    option_sets: tuple[Options, ...]
    environment: Environment = as_it_is
    waived: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The strategy's name."""
        return self.loaded.found.name

    @property
    def strategy(self) -> Strategy:
        """The strategy itself."""
        return self.loaded.strategy

    @cached_property
    def few_option_sets(self) -> tuple[Options, ...]:
        """The option sets for what takes long: the defaults, and a few others."""
        return tuple(options.few(self.option_sets))

    @property
    def changes_existing(self) -> bool:
        """Whether it has an ``amend`` of its own; the default refuses."""
        return hooks.is_own(self.strategy, "amend")

    def extra_specs(self, options: Options) -> dict[str, str]:
        """Return the extra specs that select the strategy with these options."""
        prefix = f"allocpolicy:{self.name}"
        given = {f"{prefix}.{name}": written(value) for name, value in options.items()}
        return {"allocpolicy:strategy": self.name, **given}


def subject(
    name: str,
    *,
    option_sets: Iterable[Options] | None = None,
    environment: Environment = as_it_is,
    waived: Mapping[str, str] | None = None,
) -> Subject:
    """Load an installed strategy to try the suite on.

    :param option_sets: options by name; what is left out has its default. None: the
        defaults, and each option at each value that its schema names.
    :raises StrategyNotFound: (and the other errors of loading) when it can't be used.
    :raises schema.Invalid: for options that don't match the strategy's schema.
    """
    loaded = installed.load(name)
    return Subject(
        loaded=loaded,
        option_sets=options.sets(loaded, given=option_sets),
        environment=environment,
        waived=dict(waived or {}),
    )


def written(value: object) -> str:
    """Return an option's value as an extra spec writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an executed law is tried."""

    subject: Subject  #: the strategy, and what it is tried with
    directory: Path  #: where the disk is made; empty when the law begins
    filesystem: str  #: its type as /proc/mounts spells it
    format: DiskFormat  #: the format of disks
    #: the base image, outside of ``directory``, on the same filesystem; None: there is
    #: none
    base: BaseFile | None
    options: Options  #: the strategy's options

    def __str__(self) -> str:
        base = f"on a base in {self.base.kind}" if self.base else "without a base"
        changed = self._changed_options
        told = ", ".join(f"{name}={written(value)}" for name, value in changed.items())
        return " ".join(
            filter(None, (self.filesystem, self.format, base, told and f"({told})"))
        )

    @property
    def has_defaults(self) -> bool:
        """Whether the options are the strategy's own, or the author's first."""
        return self.options == self.subject.option_sets[0]

    @property
    def is_typical(self) -> bool:
        """Whether the options are among those that are tried where it takes long."""
        return self.options in self.subject.few_option_sets

    @property
    def is_plain(self) -> bool:
        """Whether it has default options and no base image: where one try must do."""
        return self.has_defaults and self.base is None

    @property
    def disk(self) -> Path:
        """The name that the disk gets; nothing is there when the law begins."""
        return self.directory / "disk"

    @cached_property
    def policy(self) -> Policy:
        """The operator's decisions under which disks are made: the defaults.

        What the host's operator has configured makes no difference to a promise. Disks
        are made by their steps, each time: laws are about those.
        """
        steps_run = PreparedDisks(enabled=False)
        return Policy(prepared_disks=steps_run, configured=False)

    def order(self, *, virtual_size: int | None = None) -> Order:
        """Return the order of a new disk in this place.

        :param virtual_size: bytes; None: the base image's, or `SIZE` without one.
        """
        if virtual_size is None and self.base is None:
            virtual_size = SIZE
        return Order(
            destination=self.disk,
            virtual_size=virtual_size,
            base=self.base.path if self.base else None,
            base_format=self.base.format if self.base else None,
            format=self.format,
            extra_specs=self.subject.extra_specs(self.options),
        )

    def change(self, *, virtual_size: int | None = None, added: bool = False) -> Change:
        """Return what is wanted of the disk that is there: the strategy, or growth.

        :param virtual_size: bytes; of a disk that is to grow.
        :param added: they are those that it grows by.
        """
        return Change(
            disk=self.disk,
            format=self.format,
            extra_specs=self.subject.extra_specs(self.options),
            virtual_size=virtual_size,
            added=added,
        )

    def moved_to(self, directory: Path) -> Place:
        """Return the same place in another directory."""
        return replace(self, directory=directory)

    @property
    def _changed_options(self) -> Options:
        defaults = self.subject.option_sets[0]
        return {
            name: value
            for name, value in self.options.items()
            if defaults.get(name) != value
        }


SIZE = 4 << 20  # bytes of a disk without a base image
