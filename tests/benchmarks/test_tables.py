"""What was measured is kept whole, and shown beside what an issue wants."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import tables
from benchmarks.measure import Comparison, Part, Record, ratio
from benchmarks.targets import Limit, at_least, at_most, held

ROOT = Path(__file__).parents[2]
ABOUT = {"machine": "a machine", "pairs": 2, "caches": "warm"}
seconds = st.floats(min_value=0.001, max_value=1000)
OURS = Record(name="ours", values=(1.0, 2.0), cpu=(0.5, 0.25))
BEFORE = Record(name="ours, before", values=(4.0, 8.0), cpu=(1.0, 1.0))


@given(limit=seconds, measured=seconds)
def test_a_limit_is_reached_on_one_side_of_it(limit: float, measured: float) -> None:
    record = Record(name="ours", values=(measured,))

    def reached(one: Limit) -> bool:
        found = held("", one, value=lambda record: record.median, ours=record)
        return found.reached

    assert reached(at_most(limit, " s")) == (measured <= limit)
    assert reached(at_least(limit, " s")) == (measured >= limit)


def test_a_goal_shows_the_release_before_and_both_times_of_the_cpu() -> None:
    target = held(
        "made",
        at_most(3, " s", digits=1),
        value=lambda record: record.median,
        ours=OURS,
        before=BEFORE,
    )
    assert target.reached
    assert (target.wanted, target.before, target.measured) == (
        "≤ 3 s",
        "6.0 s",
        "1.5 s",
    )
    assert (target.times, target.cpu) == ("4.0x", "1,000.0 → 375.0")


def test_of_what_is_done_in_a_second_more_is_better() -> None:
    faster = Record(name="ours", values=(40.0,), unit="disks/s")
    slower = Record(name="ours, before", values=(10.0,), unit="disks/s")
    target = held(
        "audited",
        at_least(20, " disks/s"),
        value=lambda record: record.median,
        ours=faster,
        before=slower,
    )
    assert (target.reached, target.times) == (True, "4.0x")


@given(
    values=st.lists(st.tuples(seconds, seconds), min_size=1, max_size=5),
    note=st.text(max_size=10),
)
def test_what_was_measured_is_loaded_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[float, float]],
    note: str,
) -> None:
    wall, cpu = zip(*values, strict=True)
    record = Record(name="ours", values=wall, cpu=cpu, note=note)
    target = held("made", at_most(1, "x"), value=lambda one: one.median, ours=record)
    part = Part(
        name="part",
        title="(z) A part",
        text="",
        comparisons=(Comparison(filesystem="xfs", case="one", records=(record,)),),
        targets=(target,),
    )
    path = tmp_path_factory.mktemp("results") / "results.json"
    tables.store(path, [part], about=ABOUT)
    assert [loaded for loaded, _ in tables.load(path)] == [part]


def test_a_row_has_the_cpu_beside_the_clock() -> None:
    comparison = Comparison(filesystem="xfs", case="one", records=(OURS, BEFORE))
    part = Part(name="part", title="(z) A part", text="", comparisons=(comparison,))
    page = tables.markdown([(part, "on a machine")])
    assert "| one | ours | 1,500 | 1,000 to 2,000 | 375.0 |  |  |" in page
    times = f"{ratio(BEFORE, OURS):.2f}"
    assert f"|  | ours, before | 6,000 | 4,000 to 8,000 | 1,000.0 | {times} |" in page


def test_the_results_of_the_repository_are_those_of_its_figures() -> None:
    """Also where a part was measured before CPU was."""
    place = ROOT / "benchmarks" / "results"
    found = tables.load(place / "results.json")
    page = (place / "results.md").read_text(encoding="utf-8")
    for part, _ in found:
        assert f"## {part.title}" in page
