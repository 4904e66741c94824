"""Converting and checking the options of strategies in extra specs."""

from __future__ import annotations

from collections.abc import Iterable

from allocpolicy import wording
from allocpolicy.errors import (
    DuplicateStrategy,
    ExtraSpecError,
    StrategyFailed,
    StrategyNotFound,
)
from allocpolicy.registry import installed, option_values
from allocpolicy.registry.blame import blaming
from allocpolicy.registry.installed import Loaded
from allocpolicy.resolve import extra_specs
from allocpolicy.resolve.extra_specs import OptionSpec, Spec


def convert(loaded: Loaded, *, specs: Iterable[OptionSpec]) -> dict[str, object]:
    """Return the strategy's options; the first spec of each key decides.

    :raises ExtraSpecError: for an unknown option or a bad value.
    """
    own: dict[str, OptionSpec] = {}
    for spec in specs:
        if spec.strategy == loaded.found.name:
            own.setdefault(spec.option, spec)
    try:
        with blaming(loaded.found, passed=(option_values.OptionError,)):
            return option_values.convert(
                {option: spec.value for option, spec in own.items()},
                options_schema=loaded.options_schema,
            )
    except option_values.OptionError as error:
        spec = own[error.option]
        raise ExtraSpecError(spec.key, spec.value, error.reason) from error


def check_others(specs: Iterable[Spec], *, selected: str) -> None:
    """Check options of strategies that are not selected; ignore broken strategies.

    :raises ExtraSpecError: for an unknown strategy or option, or a bad value.
    """
    options = [spec for spec in specs if isinstance(spec, OptionSpec)]
    for spec in options:
        if spec.strategy == selected:
            continue
        try:
            convert(installed.load(spec.strategy), specs=options)
        except StrategyNotFound as error:
            raise _unknown_strategy(spec) from error
        except (StrategyFailed, DuplicateStrategy):
            continue


def _unknown_strategy(spec: OptionSpec) -> ExtraSpecError:
    # The option stays as written: only the strategy's name is compared.
    known = (
        extra_specs.option_key(strategy=name, option=spec.option)
        for name in installed.names()
    )
    listed = wording.choices((*extra_specs.STRATEGY_KEYS, *known), nearest_to=spec.key)
    reason = f"no strategy {spec.strategy!r} is installed; {listed}"
    return ExtraSpecError(spec.key, spec.value, reason)
