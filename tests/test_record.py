"""Records are the standard library's frozen dataclasses in all that can be seen."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocpolicy.record import asdict, dataclass, field, replace
from tests.harness.cli import environment

STANDARD: Mapping[str, Any] = {
    "dataclass": dataclasses.dataclass,
    "field": dataclasses.field,
}
OURS: Mapping[str, Any] = {"dataclass": dataclass, "field": field}


def point(words: Mapping[str, Any], *, slots: bool, eq: bool = True) -> Any:
    """Return a class that one of the two decorators made."""
    special = words["field"]

    @words["dataclass"](frozen=True, slots=slots, kw_only=True, eq=eq)
    class Point:
        """A point."""

        kinds: ClassVar[int] = 2

        x: int
        y: int
        name: str = "here"
        tags: list[str] = special(default_factory=list)
        seen: int = special(default=0, repr=False, compare=False)

        @property
        def sum(self) -> int:
            return self.x + self.y

    return Point


@pytest.fixture(params=[True, False], ids=["slots", "no slots"])
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return point(STANDARD, slots=request.param), point(OURS, slots=request.param)


def answer(ask: Callable[[], object]) -> object:
    """Return what is answered, or how it fails."""
    try:
        return ask()
    except (AttributeError, TypeError) as error:
        return type(error), str(error)


VALUES: Mapping[str, st.SearchStrategy[object]] = {
    "x": st.integers(),
    "y": st.floats(),
    "name": st.text(),
    "tags": st.lists(st.text()),
    "seen": st.integers(),
    "other": st.none(),
}


@pytest.mark.parametrize("slots", [True, False])
@given(first=st.fixed_dictionaries({}, optional=VALUES), again=st.booleans())
def test_a_record_is_made_shown_and_compared_as_a_dataclass_is(
    slots: bool, first: dict[str, Any], again: bool
) -> None:
    for ask in (
        lambda cls: repr(cls(**first)),
        lambda cls: dataclasses.asdict(cls(**first)),
        lambda cls: cls(**first) == cls(**first),
        lambda cls: cls(**first) == cls(**{**first, "seen": 7}),
        lambda cls: cls(**first) == cls(**{**first, "x": 1 if again else None}),
        lambda cls: cls(**first) == first,
        lambda cls: hash(replace(cls(**first), tags=())),
        lambda cls: repr(cls(**first).sum),  # nan is not nan
        lambda cls: repr(copy.copy(cls(**first))),
        lambda cls: repr(copy.deepcopy(cls(**first))),
        lambda cls: repr(replace(cls(**first), y=3)),
        lambda cls: repr(dataclasses.replace(cls(**first), y=3)),
        lambda cls: repr(replace(cls(**first), other=3)),
    ):
        theirs = answer(lambda: ask(point(STANDARD, slots=slots)))  # noqa: B023
        assert answer(lambda: ask(point(OURS, slots=slots))) == theirs  # noqa: B023


def test_a_record_says_of_itself_what_a_dataclass_says(
    both: tuple[Any, Any],
) -> None:
    theirs, ours = (
        (
            dataclasses.is_dataclass(cls),
            [
                (one.name, one.type, one.default, one.default_factory, one.repr)
                for one in dataclasses.fields(cls)
            ],
            inspect.signature(cls),
            cls.__doc__,
            cls.__match_args__,
            cls.__qualname__,
            cls.__module__,
            "__slots__" in vars(cls),
            cls.kinds,
            answer(lambda: cls.name if "__slots__" not in vars(cls) else "a slot"),  # noqa: B023
            answer(lambda: cls(1)),  # noqa: B023
        )
        for cls in both
    )
    assert ours == theirs


def test_nothing_of_a_record_can_be_changed(both: tuple[Any, Any]) -> None:
    for cls in both:
        made = cls(x=1, y=2)
        with pytest.raises(
            dataclasses.FrozenInstanceError, match="assign to field 'x'"
        ):
            made.x = 3
        with pytest.raises(
            dataclasses.FrozenInstanceError, match="delete field 'name'"
        ):
            del made.name
        assert (made.x, made.name) == (1, "here")


def test_a_subclass_that_is_no_record_has_attributes_of_its_own(
    both: tuple[Any, Any],
) -> None:
    cls = type("More", (both[1],), {})
    made = cls(x=1, y=2)
    made.more = 3
    assert made.more == 3
    del made.more
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.x = 3


def test_a_dataclass_of_the_standard_library_can_be_made_from_a_record(
    both: tuple[Any, Any],
) -> None:
    for cls in both:

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class More(cls):  # type: ignore[valid-type,misc]
            z: int = 3

        made = replace(More(x=1, y=2), z=4)
        assert dataclasses.asdict(made)["z"] == made.z == 4
        assert asdict(made) == dataclasses.asdict(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slotted:
    """A record with slots, as a plugin's own may be made from."""

    values: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithDictionary(Slotted):
    """A plugin's own."""

    z: int = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WithSlots(Slotted):
    """A plugin's own, with slots."""

    z: int = 3


class Undecorated(Slotted):
    """A plugin's own, which adds no field."""


@pytest.mark.parametrize("cls", [WithDictionary, WithSlots, Undecorated])
def test_what_is_made_from_a_record_survives_pickling(cls: type[Slotted]) -> None:
    """A plan with a plugin's steps goes to another process."""
    made = cls(values=(1,))
    for again in (
        copy.copy(made),
        copy.deepcopy(made),
        *(pickle.loads(pickle.dumps(made, protocol)) for protocol in range(2, 6)),
    ):
        assert type(again) is cls
        assert again == made
        assert repr(again) == repr(made)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace is new in 3.13")
def test_the_copy_module_replaces_as_well(both: tuple[Any, Any]) -> None:
    for cls in both:
        replace_of_copy = getattr(copy, "replace")  # noqa: B009  (mypy has 3.11's)
        assert replace_of_copy(cls(x=1, y=2), y=3) == cls(x=1, y=3)


def test_a_record_inherits_fields_and_defaults() -> None:
    shown = []
    for words in (STANDARD, OURS):
        base = point(words, slots=True)

        @words["dataclass"](frozen=True, slots=True, kw_only=True)
        class Deep(base):  # type: ignore[valid-type,misc]
            name: str = "there"
            z: int

        shown.append((repr(Deep(x=1, y=2, z=3)), Deep.__slots__))
    assert shown[1][0] == shown[0][0]


def test_records_without_equality_are_themselves_only() -> None:
    cls = point(OURS, slots=False, eq=False)
    one, other = cls(x=1, y=2), cls(x=1, y=2)
    assert one != other
    assert len({one, other}) == 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A record in a record."""

    values: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """A record with others in it."""

    inner: Inner
    more: Mapping[str, tuple[Inner, ...]]


def test_records_survive_pickling_and_become_plain_data() -> None:
    outer = Outer(inner=Inner(values=(1,)), more={"a": (Inner(values=()),)})
    assert pickle.loads(pickle.dumps(outer)) == outer
    assert asdict(outer) == dataclasses.asdict(outer)
    assert asdict(outer) == {
        "inner": {"values": (1,)},
        "more": {"a": ({"values": ()},)},
    }


def test_what_no_record_may_be_is_refused() -> None:
    with pytest.raises(TypeError, match="frozen"):
        dataclass(frozen=False, kw_only=True)
    with pytest.raises(ValueError, match="default_factory"):

        @dataclass(frozen=True, kw_only=True)
        class Wrong:
            values: Mapping[str, int] = {}

    with pytest.raises(TypeError, match="asdict"):
        asdict(3)  # type: ignore[call-overload]


def test_records_import_neither_dataclasses_nor_inspect() -> None:
    """Both take longer than all records of a command."""
    script = """
import sys
from allocpolicy.contract.facts import Limits
limits = Limits()
from allocpolicy.record import asdict, replace
from allocpolicy.record_class import names
assert [*asdict(replace(limits, max_promised_bytes=1))] == [*names(Limits)]
assert not {"dataclasses", "inspect"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment())
