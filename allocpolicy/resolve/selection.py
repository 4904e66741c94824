"""From extra specs and configuration to a selection: what won, and over what.

Precedence: per-disk key > flavor key > ``[allocpolicy] preallocate_images`` >
``[DEFAULT] preallocate_images`` > none. The command line's extra specs add to the
flavor's and replace those of the same key, no others: the flavor's per-disk key wins
over the command line's general one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocpolicy import schema, wording
from allocpolicy.contract.strategy import Choice, DiskRole
from allocpolicy.errors import (
    DuplicateStrategy,
    ExtraSpecError,
    ImageError,
    StrategyFailed,
    StrategyNotFound,
)
from allocpolicy.images.stamp import XATTR
from allocpolicy.registry import installed
from allocpolicy.registry import options as options_of
from allocpolicy.resolve import extra_specs
from allocpolicy.resolve.extra_specs import OptionSpec, Spec, StrategySpec

if TYPE_CHECKING:
    from allocpolicy.contract.policy import Policy
    from allocpolicy.resolve.flavors import Flavor

COMMAND_LINE = "command line"
WON = "won"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which key set a value, and in which file or other source."""

    key: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A value that might have decided its subject, and what became of it.

    The subject is ``strategy`` or ``<strategy>.<option>``.
    """

    subject: str
    value: object
    key: str
    source: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The strategy and every option of it, each with its origin.

    ``candidates`` is every value that was considered, nearest first. ``option_specs``
    are the extra specs in force for options of whatever strategy.
    """

    strategy: str
    options: Mapping[str, object]
    origin: Origin
    option_origins: Mapping[str, Origin]
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    option_specs: tuple[OptionSpec, ...] = field(default=(), repr=False)


def resolve(
    *,
    policy: Policy,
    disk_role: DiskRole,
    flavor: Flavor | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Selection:
    """Return the selection for one disk; ``overrides`` are the command line's.

    :raises ExtraSpecError: for an unknown key, option or strategy, a bad value, or one
        that the operator does not allow.
    :raises StrategyNotFound: when the configuration names an unknown strategy.
    :raises DuplicateStrategy: when two distributions claim the selected strategy.
    :raises StrategyFailed: when the selected strategy cannot be loaded.
    """
    given = extra_specs.parse(overrides or {}, source=COMMAND_LINE)
    if not policy.flavor_override:
        _refuse_overrides(given, policy=policy)
        ignored = tuple(_ignored(flavor, policy=policy))
        return _select((), policy=policy, disk_role=disk_role, ignored=ignored)
    own = extra_specs.parse(flavor.extra_specs, source=str(flavor)) if flavor else ()
    return _select((*given, *own), policy=policy, disk_role=disk_role)


def resolve_fallback(selection: Selection, *, name: str, reason: str) -> Selection:
    """Return the selection of the fallback ``name``, with its options' extra specs.

    ``reason`` says why the strategy of ``selection`` cannot be had.

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
        dataclasses.replace(candidate, outcome=outcome)
        if candidate.outcome == WON
        else candidate
        for candidate in selection.candidates
        if candidate.subject == "strategy"
    )
    return _with_options(
        _load_default(name, origin="[allocpolicy] fallback_strategies"),
        origin=origin,
        specs=selection.option_specs,
        candidates=(won, *earlier),
    )


def resolve_stamp(choice: Choice, *, path: Path) -> Selection:
    """Return the selection that a disk's stamp records, newer options at their default.

    :raises ImageError: when the strategy does not take the options.
    :raises StrategyNotFound: when it is not installed.
    :raises DuplicateStrategy: when two distributions claim it.
    :raises StrategyFailed: when it cannot be loaded.
    """
    loaded = installed.load(choice.strategy)
    try:
        options = options_of.complete_options(
            choice.options, options_schema=loaded.strategy.options_schema
        )
    except schema.Invalid as error:
        reason = f"its stamp's options of strategy {choice.strategy}: {error}"
        raise ImageError(path, reason) from error
    origin = Origin(key=XATTR, source="stamp")
    return Selection(
        strategy=choice.strategy,
        options=options,
        origin=origin,
        option_origins=dict.fromkeys(options, origin),
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
    _check_choices(in_force, policy=policy)
    candidates = _strategy_candidates(specs, policy=policy, disk_role=disk_role)
    won = candidates[0]
    if won.key in extra_specs.STRATEGY_KEYS:
        loaded = installed.load(str(won.value))
    else:
        loaded = _load_default(str(won.value), origin=won.source)
    _check_other_options(in_force, selected=loaded.found.name)
    return _with_options(
        loaded,
        origin=Origin(key=won.key, source=won.source),
        specs=tuple(spec for spec in specs if isinstance(spec, OptionSpec)),
        candidates=(*candidates, *ignored),
    )


def _load_default(name: str, *, origin: str) -> installed.Loaded:
    """Load a strategy that the configuration names."""
    try:
        return installed.load(name)
    except StrategyNotFound as error:
        raise StrategyNotFound(name, f"{error.reason} ({origin})") from error


def _with_options(
    loaded: installed.Loaded,
    *,
    origin: Origin,
    specs: tuple[OptionSpec, ...],
    candidates: tuple[Candidate, ...],
) -> Selection:
    strategy = loaded.found.name
    options = _convert(loaded, specs=specs)
    own = tuple(_option_candidates(loaded, specs=specs))
    return Selection(
        strategy=strategy,
        options=options,
        origin=origin,
        option_origins={
            one.subject.removeprefix(f"{strategy}."): Origin(
                key=one.key, source=one.source
            )
            for one in own
            if one.outcome == WON
        },
        candidates=(*candidates, *own),
        option_specs=specs,
    )


def _convert(
    loaded: installed.Loaded, *, specs: Iterable[OptionSpec]
) -> dict[str, object]:
    """Return the strategy's options, of which the first spec of each key decides."""
    own: dict[str, OptionSpec] = {}
    for spec in specs:
        if spec.strategy == loaded.found.name:
            own.setdefault(spec.option, spec)
    try:
        return options_of.convert_options(
            {option: spec.value for option, spec in own.items()},
            options_schema=loaded.strategy.options_schema,
        )
    except options_of.OptionError as error:
        spec = own[error.option]
        raise ExtraSpecError(spec.key, spec.value, error.reason) from error


def _check_choices(specs: Iterable[Spec], *, policy: Policy) -> None:
    """Check what strategies the extra specs choose, for other disks too."""
    for spec in specs:
        if not isinstance(spec, StrategySpec):
            continue
        allowed = policy.allowed_strategies
        if allowed and spec.value not in allowed:
            listed = wording.choices(allowed, nearest_to=spec.value)
            reason = f"the operator's allowed_strategies does not have it; {listed}"
            raise ExtraSpecError(spec.key, spec.value, reason)
        names = installed.names()
        if spec.value not in names:
            listed = wording.choices(allowed or names, nearest_to=spec.value)
            reason = f"no such strategy is installed; {listed}"
            raise ExtraSpecError(spec.key, spec.value, reason)


def _check_other_options(specs: Iterable[Spec], *, selected: str) -> None:
    """Check options of strategies that are not selected; broken ones do no harm."""
    options = [spec for spec in specs if isinstance(spec, OptionSpec)]
    for spec in options:
        if spec.strategy == selected:
            continue
        try:
            _convert(installed.load(spec.strategy), specs=options)
        except StrategyNotFound as error:
            raise _unknown_strategy(spec) from error
        except (StrategyFailed, DuplicateStrategy):
            continue


def _unknown_strategy(spec: OptionSpec) -> ExtraSpecError:
    # With the option as it was written, so that the strategy's name alone decides.
    known = (
        extra_specs.option_key(strategy=name, option=spec.option)
        for name in installed.names()
    )
    listed = wording.choices((*extra_specs.STRATEGY_KEYS, *known), nearest_to=spec.key)
    reason = f"no strategy {spec.strategy!r} is installed; {listed}"
    return ExtraSpecError(spec.key, spec.value, reason)


def _strategy_candidates(
    specs: Iterable[Spec], *, policy: Policy, disk_role: DiskRole
) -> tuple[Candidate, ...]:
    """Return what might choose the strategy: the winner, those that it beat, others."""
    choices = [spec for spec in specs if isinstance(spec, StrategySpec)]
    of_disk = [spec for spec in choices if spec.disk_role is disk_role]
    of_all = [spec for spec in choices if spec.disk_role is None]
    origin = (policy.default_strategy, policy.default_origin)
    values: list[tuple[object, str, str]] = [
        *((spec.value, spec.key, spec.source) for spec in of_disk + of_all),
        *(
            (value, "preallocate_images", source)
            for value, source in (origin, *policy.overridden_defaults)
        ),
    ]
    others = (
        _lost(spec, outcome=f"ignored: this is the {disk_role} disk")
        for spec in choices
        if spec not in of_disk + of_all
    )
    return (*_ranked("strategy", values), *others)


def _option_candidates(
    loaded: installed.Loaded, *, specs: Iterable[OptionSpec]
) -> Iterator[Candidate]:
    """Yield what might set the strategy's options, then what is for others."""
    strategy = loaded.found.name
    properties: Mapping[str, Any] = loaded.strategy.options_schema["properties"]  # type: ignore[assignment]
    for option, described in properties.items():
        key = extra_specs.option_key(strategy=strategy, option=option)
        given = [(spec.value, key, spec.source) for spec in specs if spec.key == key]
        default = (described["default"], key, "default")
        yield from _ranked(f"{strategy}.{option}", [*given, default])
    for spec in specs:
        if spec.strategy != strategy:
            yield _lost(spec, outcome=f"ignored: the strategy is {strategy}")


def _ranked(
    subject: str, values: Sequence[tuple[object, str, str]]
) -> Iterator[Candidate]:
    """Yield candidates of (value, key, source), of which the first wins."""
    _, winner, where = values[0]
    for index, (value, key, source) in enumerate(values):
        yield Candidate(
            subject=subject,
            value=value,
            key=key,
            source=source,
            outcome=f"overridden by {winner} ({where})" if index else WON,
        )


def _lost(spec: Spec, *, outcome: str) -> Candidate:
    return Candidate(
        subject=spec.subject,
        value=spec.value,
        key=spec.key,
        source=spec.source,
        outcome=outcome,
    )


def _ignored(flavor: Flavor | None, *, policy: Policy) -> Iterator[Candidate]:
    """Yield the flavor's keys, valid or not, where the operator lets none count."""
    for key, value in flavor.extra_specs.items() if flavor else ():
        if key.startswith(extra_specs.NAMESPACE):
            name = key.removeprefix(extra_specs.NAMESPACE)
            yield Candidate(
                subject="strategy" if key in extra_specs.STRATEGY_KEYS else name,
                value=value,
                key=key,
                source=str(flavor),
                outcome=f"ignored: {_closed(policy)}",
            )


def _refuse_overrides(specs: Iterable[Spec], *, policy: Policy) -> None:
    for spec in specs:
        reason = f"{_closed(policy)}: only preallocate_images decides"
        raise ExtraSpecError(spec.key, spec.value, reason)


def _closed(policy: Policy) -> str:
    return f"flavor_override = false ({policy.flavor_override_origin})"
