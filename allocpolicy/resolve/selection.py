"""Resolving extra specs and configuration into a selection, with what it overrode.

Precedence: per-disk key > flavor key > ``[allocpolicy] preallocate_images`` >
``[DEFAULT] preallocate_images`` > none. The command line's extra specs add to the
flavor's and replace only those with the same key: the flavor's per-disk key wins over
the command line's general one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from allocpolicy.contract.strategy import Choice, DiskRole
from allocpolicy.errors import ImageError, StrategyNotFound
from allocpolicy.images.stamp import XATTR, Asked
from allocpolicy.record import dataclass, field, replace
from allocpolicy.registry import installed, recorded_options
from allocpolicy.registry.installed import Loaded
from allocpolicy.resolve import candidates, checks, extra_specs, near_miss, options
from allocpolicy.resolve.candidates import WON, Candidate
from allocpolicy.resolve.extra_specs import OptionSpec, Spec
from allocpolicy.resolve.labels import checked
from allocpolicy.schema import Invalid

if TYPE_CHECKING:
    from allocpolicy.contract.policy import Policy
    from allocpolicy.resolve.flavors import Flavor

COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which key set a value, and in which file or other source."""

    key: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The loaded strategy and all its options, each with its origin."""

    strategy: str  #: the strategy's name
    #: the strategy itself, and where it was found
    loaded: Loaded = field(repr=False, compare=False)
    options: Mapping[str, object]  #: all of its options, defaults included
    origin: Origin  #: the key and the source that chose it
    option_origins: Mapping[str, Origin]  #: those of each option that was set
    #: all values that were considered, nearest first
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    #: the extra specs in force for options of any strategy
    option_specs: tuple[OptionSpec, ...] = field(default=(), repr=False)
    #: flavor, role, extra specs and labels that led to it; None: not known
    asked: Asked | None = field(default=None, repr=False, compare=False)

    @property
    def choice(self) -> Choice:
        """Return what a stamp records of the selection."""
        found = self.loaded.found
        return Choice(
            strategy=self.strategy,
            options=dict(self.options),
            distribution=found.distribution,
            version=found.version,
        )


def resolve(
    *,
    policy: Policy,
    disk_role: DiskRole,
    flavor: Flavor | None = None,
    overrides: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Selection:
    """Return the selection for one disk; ``overrides`` are the command line's.

    The labels have no say in it, and are recorded with it.

    :raises ExtraSpecError: for an unknown key, option or strategy, a bad value, one
        that the operator does not allow, or an override in another namespace.
    :raises StrategyNotFound: when the configuration names an unknown strategy.
    :raises DuplicateStrategy: when two distributions claim the selected strategy.
    :raises StrategyFailed: when the selected strategy cannot be loaded.
    :raises InvalidRequest: when a label can't be one.
    """
    near_miss.refuse_others(overrides or {})
    selected = _resolved(
        policy=policy, disk_role=disk_role, flavor=flavor, overrides=overrides or {}
    )
    asked = Asked(
        flavor=flavor.name if flavor else None,
        disk=disk_role,
        extra_specs=dict(overrides or {}),
        labels=checked(labels or {}),
    )
    return replace(selected, asked=asked)


def _resolved(
    *,
    policy: Policy,
    disk_role: DiskRole,
    flavor: Flavor | None,
    overrides: Mapping[str, str],
) -> Selection:
    given = extra_specs.parse(overrides, source=COMMAND_LINE)
    if not policy.flavor_override:
        checks.refuse_overrides(given, policy=policy)
        ignored = tuple(candidates.ignored(flavor, policy=policy))
        return _select((), policy=policy, disk_role=disk_role, ignored=ignored)
    own = extra_specs.parse(flavor.extra_specs, source=str(flavor)) if flavor else ()
    near = tuple(candidates.near_misses(flavor))
    return _select((*given, *own), policy=policy, disk_role=disk_role, ignored=near)


def resolve_fallback(selection: Selection, *, name: str, reason: str) -> Selection:
    """Return the selection of the fallback ``name``, with its options from extra specs.

    ``reason`` says why the strategy of ``selection`` is unavailable.

    :raises StrategyNotFound: when it is not installed.
    :raises DuplicateStrategy: when two distributions claim it.
    :raises StrategyFailed: when it cannot be loaded.
    """
    origin = Origin(key="fallback_strategies", source="[allocpolicy]")
    won = Candidate(
        subject="strategy",
        value=name,
        key=origin.key,
        source=origin.source,
        outcome=WON,
    )
    outcome = f"given up for {name}: {reason}"
    earlier = (
        replace(candidate, outcome=outcome) if candidate.outcome == WON else candidate
        for candidate in selection.candidates
        if candidate.subject == "strategy"
    )
    return _with_options(
        _load_default(name, origin="[allocpolicy] fallback_strategies"),
        origin=origin,
        specs=selection.option_specs,
        considered=(won, *earlier),
    )


def resolve_stamp(
    choice: Choice, *, path: Path, policy: Policy, asked: Asked | None = None
) -> Selection:
    """Return the selection that a disk's stamp records; newer options have defaults.

    :raises ImageError: when the operator does not allow the strategy, or it does not
        accept the options.
    :raises StrategyNotFound: when it is not installed.
    :raises DuplicateStrategy: when two distributions claim it.
    :raises StrategyFailed: when it cannot be loaded.
    """
    if (refusal := checks.stamp_refusal(choice.strategy, policy=policy)) is not None:
        remedy = "choose its policy, for example with --strategy"
        raise ImageError(path, f"{refusal}; {remedy}")
    loaded = installed.load(choice.strategy)
    try:
        complete = recorded_options.of_today(choice, loaded=loaded)
    except Invalid as error:
        reason = f"its stamp's options of strategy {choice.strategy}: {error}"
        raise ImageError(path, reason) from error
    origin = Origin(key=XATTR, source="stamp")
    return Selection(
        strategy=loaded.found.name,
        loaded=loaded,
        options=complete,
        origin=origin,
        option_origins=dict.fromkeys(complete, origin),
        asked=asked,
    )


def _select(
    specs: tuple[Spec, ...],
    *,
    policy: Policy,
    disk_role: DiskRole,
    ignored: tuple[Candidate, ...] = (),
) -> Selection:
    """Select from all extra specs, the command line's before the flavor's."""
    in_force = tuple({spec.key: spec for spec in reversed(specs)}.values())
    checks.check_choices(in_force, policy=policy)
    considered = candidates.of_strategy(specs, policy=policy, disk_role=disk_role)
    won = considered[0]
    if won.key in extra_specs.STRATEGY_KEYS:
        loaded = installed.load(str(won.value))
    else:
        loaded = _load_default(str(won.value), origin=won.source)
    options.check_others(in_force, selected=loaded.found.name)
    return _with_options(
        loaded,
        origin=Origin(key=won.key, source=won.source),
        specs=tuple(spec for spec in specs if isinstance(spec, OptionSpec)),
        considered=(*considered, *ignored),
    )


def _load_default(name: str, *, origin: str) -> Loaded:
    """Load a strategy that the configuration names."""
    try:
        return installed.load(name)
    except StrategyNotFound as error:
        raise StrategyNotFound(name, f"{error.reason} ({origin})") from error


def _with_options(
    loaded: Loaded,
    *,
    origin: Origin,
    specs: tuple[OptionSpec, ...],
    considered: tuple[Candidate, ...],
) -> Selection:
    converted = options.convert(loaded, specs=specs)
    own = tuple(candidates.of_options(loaded, specs=specs))
    return Selection(
        strategy=loaded.found.name,
        loaded=loaded,
        options=converted,
        origin=origin,
        option_origins={
            one.subject.removeprefix(f"{loaded.found.name}."): Origin(
                key=one.key, source=one.source
            )
            for one in own
            if one.outcome == WON
        },
        candidates=(*considered, *own),
        option_specs=specs,
    )
