"""One command and all the faults that it may meet; which of them are tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.faults.answers import ANSWERED
from tests.faults.calls import Call, Fault, faults_of
from tests.faults.laws import Oracle
from tests.faults.place import Place, picture
from tests.faults.scenarios import DISK, Effect, Scenario
from tests.faults.tracing import Commands, Ended

# Its multiples, each modulo 1, leave no large gap, however many there are.
GOLDEN = (5**0.5 - 1) / 2

Item = TypeVar("Item")
Case = tuple[Call, Fault]


@dataclass(slots=True, kw_only=True)
class Tried:
    """What came of a scenario's faults."""

    runs: Counter[str] = field(default_factory=Counter)  # by fault
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def try_faults(
    scenario: Scenario, *, commands: Commands, directory: Path, most: int | None
) -> Tried:
    """Run the command once for each fault, or for ``most`` of them; judge each run."""
    place = Place(directory, scenario)
    arguments = scenario.arguments(place.path)
    commands.learn(arguments)
    place.restore()
    reference = commands.run(arguments, below=place.path)
    assert reference.status in ANSWERED, reference.stderr
    oracle = Oracle(scenario, place, reference)
    tried = Tried()
    for call, fault in spread(list(cases(reference)), most):
        place.restore()
        ended = commands.run(arguments, below=place.path, call=call, fault=fault)
        if ended.injected is None:
            continue  # the calls of threads and processes come in no fixed order
        tried.runs[str(fault)] += 1
        tried.statuses["killed" if ended.status is None else str(ended.status)] += 1
        wrong = list(oracle.violations(ended, fault))
        wrong += after_retry(scenario, place, oracle, commands)
        tried.wrong += [f"{fault} at {ended.injected}: {law}" for law in wrong]
    return tried


def cases(reference: Ended) -> Iterator[Case]:
    for call in reference.calls:
        for fault in faults_of(call):
            yield call, fault


def spread(everything: Sequence[Item], most: int | None) -> Sequence[Item]:
    """Return ``most`` of the items, spread evenly, the same ones each time."""
    if most is None or most >= len(everything):
        return everything
    places = (int(index * GOLDEN % 1 * len(everything)) for index in range(1, most + 1))
    return [everything[place] for place in places]


def after_retry(
    scenario: Scenario, place: Place, oracle: Oracle, commands: Commands
) -> Iterator[str]:
    """Run the command again, without a fault: it does what is left to do."""
    if not oracle.failed or scenario.effect is Effect.LOOKS:
        return
    if scenario.effect is Effect.CREATES and picture(place.path) == place.picture:
        return  # it would find what the first one found
    exists = scenario.effect is Effect.CREATES and (place.path / DISK).exists()
    again = commands.run(scenario.arguments(place.path), below=place.path)
    if again.status != (2 if exists else 0):
        yield f"the retry ended with {again.status}: {again.stderr.strip()}"
    if not exists:
        for law in oracle.wrong_files(again):
            yield f"after the retry: {law}"
