"""What is recommended follows from the figures, and is as fast as anything measured."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.bench import layouts
from allocpolicy.bench.figures import WAYS, Measured, Sample, Scattered
from allocpolicy.bench.layouts import Layout
from allocpolicy.bench.recommendation import AS_FAST, best_way, recommend

LAYOUTS = tuple(layouts.every())
OURS = [one for one in LAYOUTS if one.ours and one.format == "qcow2"]
RATES = st.floats(1e3, 1e10)
SCATTERED = st.builds(Scattered, first=RATES, again=RATES)
SAMPLES = st.builds(
    Sample,
    make_seconds=st.floats(1e-3, 1e3),
    dd_rate=RATES,
    sequential_rate=RATES,
    scattered=st.fixed_dictionaries(dict.fromkeys(WAYS, SCATTERED)),
)


def measured(layout: Layout, *samples: Sample, error: str | None = None) -> Measured:
    return Measured(layout=layout, samples=samples, error=error)


@st.composite
def rows(draw: st.DrawFn) -> list[Measured]:
    chosen = draw(st.sets(st.sampled_from(range(len(LAYOUTS))), min_size=1))
    errors = st.sampled_from([None, None, None, "this storage cannot do it"])
    return [
        measured(LAYOUTS[at], *draw(st.lists(SAMPLES, min_size=1)), error=draw(errors))
        for at in sorted(chosen)
    ]


def speed(row: Measured) -> float:
    """Return how fast it is all in all."""
    way = best_way(row)
    assert way is not None
    scattered = row.by_io[way]
    rates = [row.middle("dd_rate"), row.middle("sequential_rate")]
    found = [*rates, scattered.first, scattered.again]
    return math.prod(one or 1.0 for one in found) ** 0.25


@given(rows())
def test_the_first_that_is_as_fast_as_any_is_taken(given: list[Measured]) -> None:
    """Of what strategies make, as qcow2, without an error; or nothing is."""
    candidates = [row for row in given if row.layout in OURS and row.error is None]
    chosen = recommend(given)
    if chosen is None:
        assert not candidates
        return
    fastest = max(map(speed, candidates))
    assert chosen.measured in candidates
    assert speed(chosen.measured) >= AS_FAST * fastest * 0.999
    before = candidates[: candidates.index(chosen.measured)]
    assert all(speed(row) < AS_FAST * fastest * 1.001 for row in before)


@given(rows(), st.sampled_from([0.5, 2.0, 1024.0]))
def test_a_machine_that_is_as_much_faster_at_all_gets_the_same(
    given: list[Measured], factor: float
) -> None:
    def faster(sample: Sample) -> Sample:
        scattered = {
            way: Scattered(first=one.first * factor, again=one.again * factor)
            for way, one in sample.scattered.items()
        }
        return Sample(
            dd_rate=(sample.dd_rate or 0) * factor,
            sequential_rate=(sample.sequential_rate or 0) * factor,
            scattered=scattered,
        )

    others = [
        measured(row.layout, *map(faster, row.samples), error=row.error)
        for row in given
    ]
    one, other = recommend(given), recommend(others)
    if one is None or other is None:
        assert one is other
        return
    # a tie is decided by rounding
    ratio = speed(one.measured) / speed(
        next(row for row in given if row.layout == other.measured.layout)
    )
    assert one.measured.layout == other.measured.layout or 0.89 < ratio < 1.13


@given(rows())
def test_the_sentence_has_what_a_flavor_says_and_the_way_of_io(
    given: list[Measured],
) -> None:
    chosen = recommend(given)
    if chosen is None:
        return
    ours = chosen.measured.layout.ours
    assert ours is not None
    for name, value in ours.extra_specs.items():
        assert f"{name}={value}" in chosen.sentence
    assert f"io={chosen.io}" in chosen.sentence
    assert "\n" not in chosen.sentence


def test_without_a_guest_the_other_figures_decide() -> None:
    slow, fast = (
        Sample(
            sequential_rate=1e8,
            scattered={"threads": Scattered(first=first, again=1e4)},
        )
        for first in (1e3, 1e4)
    )
    given = [measured(OURS[0], slow), measured(OURS[1], fast)]
    chosen = recommend(given)
    assert chosen is not None and chosen.measured is given[1]
    assert chosen.io == "threads"


def test_nothing_is_recommended_of_others() -> None:
    others = [one for one in LAYOUTS if one not in OURS]
    sample = Sample(dd_rate=1e9, sequential_rate=1e9)
    assert recommend([measured(one, sample) for one in others]) is None


def test_the_proposal_s_six_layouts_are_there() -> None:
    """Each once; and each name is one layout's."""
    numbers = [one.original for one in LAYOUTS if one.original]
    assert sorted(numbers) == sorted(layouts.PROPOSED)
    assert len({one.name for one in LAYOUTS}) == len(LAYOUTS)
