"""The values considered for a selection, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from allocpolicy.contract.strategy import DiskRole
from allocpolicy.record import dataclass
from allocpolicy.registry.installed import Loaded
from allocpolicy.resolve import extra_specs, near_miss
from allocpolicy.resolve.extra_specs import OptionSpec, Spec, StrategySpec

if TYPE_CHECKING:
    from allocpolicy.contract.policy import Policy
    from allocpolicy.resolve.flavors import Flavor


WON = "won"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A value considered for its subject, and what became of it.

    The subject is ``strategy`` or ``<strategy>.<option>``.
    """

    subject: str
    value: object
    key: str
    source: str
    outcome: str


def of_strategy(
    specs: Iterable[Spec], *, policy: Policy, disk_role: DiskRole
) -> tuple[Candidate, ...]:
    """Return the candidates for the strategy: the winner, those overridden, others."""
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


def of_options(loaded: Loaded, *, specs: Iterable[OptionSpec]) -> Iterator[Candidate]:
    """Yield the candidates for the strategy's options, then other strategies'."""
    strategy = loaded.found.name
    properties: Mapping[str, Any] = loaded.options_schema["properties"]
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
    """Yield candidates of (value, key, source); the first wins."""
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


def ignored(flavor: Flavor | None, *, policy: Policy) -> Iterator[Candidate]:
    """Yield the flavor's keys, valid or not, if the operator ignores them all."""
    for key, value in flavor.extra_specs.items() if flavor else ():
        if key.startswith(extra_specs.NAMESPACE):
            yield Candidate(
                subject=_subject(key),
                value=value,
                key=key,
                source=str(flavor),
                outcome=f"ignored: {closed(policy)}",
            )


def near_misses(flavor: Flavor | None) -> Iterator[Candidate]:
    """Yield the flavor's keys that resemble ours, and count for nothing."""
    keys = flavor.extra_specs if flavor else {}
    for key, probably in near_miss.among(keys):
        yield Candidate(
            subject=_subject(probably),
            value=keys[key],
            key=key,
            source=str(flavor),
            outcome=f"ignored: another namespace; did you mean {probably!r}?",
        )


def _subject(key: str) -> str:
    """Return what a key decides."""
    if key in extra_specs.STRATEGY_KEYS:
        return "strategy"
    return key.removeprefix(extra_specs.NAMESPACE)


def closed(policy: Policy) -> str:
    """Return the setting by which the operator ignores flavors."""
    return f"flavor_override = false ({policy.flavor_override_origin})"
