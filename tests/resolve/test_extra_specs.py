"""The grammar of the keys under allocpolicy:."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import ExtraSpecError
from allocpolicy.resolve import extra_specs
from allocpolicy.resolve.extra_specs import OptionSpec, StrategySpec

WORDS = st.from_regex(r"[a-z0-9_-]+", fullmatch=True)
STRATEGIES = WORDS.filter(lambda word: word != "strategy")


def parse_one(key: str, value: str = "v") -> extra_specs.Spec:
    (spec,) = extra_specs.parse({key: value}, source="test")
    return spec


@given(st.one_of(st.none(), st.sampled_from(DiskRole)), st.text())
def test_strategy_keys(disk_role: DiskRole | None, value: str) -> None:
    """A strategy is chosen for every disk, or for one."""
    key = f"allocpolicy:strategy.{disk_role}" if disk_role else "allocpolicy:strategy"
    assert parse_one(key, value) == StrategySpec(
        key=key, value=value, source="test", disk_role=disk_role
    )


@given(STRATEGIES, WORDS, st.text())
def test_option_keys(strategy: str, option: str, value: str) -> None:
    """An option belongs to the strategy before the dot."""
    key = extra_specs.option_key(strategy=strategy, option=option)
    assert parse_one(key, value) == OptionSpec(
        key=key, value=value, source="test", strategy=strategy, option=option
    )


@given(
    st.dictionaries(
        st.text().filter(lambda key: not key.startswith("allocpolicy:")), st.text()
    )
)
def test_other_namespaces_are_ignored(others: dict[str, str]) -> None:
    """Nova's and anybody's keys pass without a word."""
    assert extra_specs.parse(others, source="test") == ()


@given(st.text())
def test_any_key_is_parsed_or_refused(rest: str) -> None:
    """Whatever follows the namespace: a spec of that key, or an ExtraSpecError."""
    key = f"allocpolicy:{rest}"
    try:
        told: extra_specs.Spec | ExtraSpecError = parse_one(key)
    except ExtraSpecError as error:
        told = error
    assert told.key == key


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("allocpolicy:", "allocpolicy:strategy"),
        ("allocpolicy:stratgy", "allocpolicy:strategy"),
        ("allocpolicy:strategy.rot", "allocpolicy:strategy.root"),
        ("allocpolicy:strategy.", "allocpolicy:strategy"),
        ("allocpolicy:.data", "allocpolicy:strategy"),
    ],
)
def test_unknown_key_is_told_the_nearest(key: str, nearest: str) -> None:
    """The refusal names the key, the value, what is allowed, and the nearest."""
    with pytest.raises(ExtraSpecError) as raised:
        parse_one(key, "space")
    message = str(raised.value)
    assert f"{key} = 'space'" in message
    assert "allocpolicy:strategy.ephemeral" in message
    assert f"did you mean {nearest!r}?" in message


def test_assignments() -> None:
    """A value may hold an equals sign and be empty."""
    assert extra_specs.parse_assignments(["a:b=c=d", "e:f="]) == {
        "a:b": "c=d",
        "e:f": "",
    }


@pytest.mark.parametrize(
    ("assignments", "why"),
    [
        (["allocpolicy:strategy"], "KEY=VALUE"),
        (["a:b=1", "a:b=2"], "twice"),
    ],
)
def test_wrong_assignments(assignments: list[str], why: str) -> None:
    """A slip on the command line isn't mistaken for somebody else's key."""
    with pytest.raises(ExtraSpecError) as raised:
        extra_specs.parse_assignments(assignments)
    assert why in str(raised.value)
