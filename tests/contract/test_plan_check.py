"""Which plans break the contract, and in which words that is told."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allocpolicy import (
    BaseImage,
    ContractBroken,
    CopyBase,
    CreateQcow2,
    CreateRaw,
    DiskFormat,
    DiskRole,
    Facts,
    FillHoles,
    GrowRaw,
    Mode,
    Observation,
    Operation,
    Plan,
    Progress,
    Request,
    Reserve,
    SetNocow,
    Sharing,
    Step,
    Target,
    check_plan,
)
from allocpolicy.contract.statements import recipe_of
from allocpolicy.testing import base_image, facts_on, observation
from allocpolicy.testing.records import NOWHERE

MIB = 1 << 20
CURRENT = observation()
FACTS = facts_on("ext4", current=CURRENT)
FACTS_OF_NEW = dataclasses.replace(FACTS, base=None, file=None)
NEW = Request(
    operation=Operation.PROVISION,
    destination=NOWHERE / "disk",
    virtual_size=MIB,
    format=DiskFormat.QCOW2,
    disk_role=DiskRole.ROOT,
)
APPLY = dataclasses.replace(NEW, operation=Operation.APPLY)
BASE = base_image(DiskFormat.RAW)
PLAN = Plan(
    mode=Mode.STAGED,
    steps=(CreateRaw(virtual_size=MIB),),
    peak_bytes=0,
    promised_bytes=MIB,
)


def checked(
    plan: object,
    *,
    request: Request = NEW,
    facts: Facts = FACTS_OF_NEW,
    current: Observation | None = None,
) -> Plan:
    return check_plan(plan, request=request, facts=facts, current=current)


def amended(plan: object, *, operation: Operation = Operation.APPLY) -> Plan:
    request = dataclasses.replace(NEW, operation=operation)
    return checked(plan, request=request, facts=FACTS, current=CURRENT)


def with_(**wrong: Any) -> Plan:
    return dataclasses.replace(PLAN, **wrong)


class Does(Step):
    """A third party's step, which states what the test says."""

    def __init__(self, **stated: object) -> None:
        vars(self).update(stated)

    def describe(self) -> str:
        return "does it"

    def run(self, target: Target, progress: Progress) -> None: ...


class Waits:
    """A step that is awaited by nobody."""

    def describe(self) -> str:
        return "does it"

    async def run(self, target: Target, progress: Progress) -> None: ...


class Yields:
    """A step that is iterated over by nobody."""

    def describe(self) -> str:
        return "does it"

    def run(self, target: Target, progress: Progress) -> Iterator[None]:
        yield


class Line(Does):
    """A step with a line where the method should be."""

    describe = "does it"  # type: ignore[assignment]


def generator() -> Iterator[Step]:
    yield CreateRaw(virtual_size=MIB)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (None, "returned None, not a Plan"),
        ("staged", "returned 'staged', not a Plan"),
        (Plan, "returned the class Plan, not a Plan"),
        (with_(mode="staged"), "mode is 'staged', not Mode"),
        (with_(mode=None), "mode is None"),
        (with_(steps=generator()), "steps is a generator, not tuple"),
        (with_(steps=[CreateRaw(virtual_size=MIB)]), "steps is a list, not tuple"),
        (with_(steps=None), "steps is None"),
        (with_(steps=(object(),)), "steps has an object, not a Step"),
        (with_(steps=(CreateRaw,)), "steps has the class CreateRaw, not a Step"),
        (with_(steps=(Waits(),)), "run() of the step Waits is a coroutine"),
        (with_(steps=(Yields(),)), "run() of the step Yields is a generator"),
        (with_(steps=(Line(),)), "describe of the step Line is 'does it'"),
        (with_(peak_bytes=0.0), "peak_bytes is 0.0, not int"),
        (with_(promised_bytes=None), "promised_bytes is None"),
        (with_(promised_bytes=str(MIB)), f"promised_bytes is '{MIB}'"),
        (with_(reserved_bytes=False), "reserved_bytes is False"),
        (with_(reserved_bytes=-1), "reserved_bytes is -1"),
        (with_(reserved_bytes=1), "peak_bytes is 0"),
        (with_(peak_bytes=2 * MIB), f"promised_bytes is {MIB}"),
        (with_(written=1), "written is 1, not bool"),
        (with_(online=None), "online is None"),
        (with_(reason=None), "reason is None, not str"),
        (with_(steps=()), "no steps"),
        (with_(mode=Mode.NOTHING), "mode is nothing, and there are 1 steps"),
        (with_(mode=Mode.STAMPED), "mode is stamped, which is for reports"),
        (with_(mode=Mode.NOTHING, steps=()), "can't create a new disk"),
        (with_(mode=Mode.IN_PLACE), "can't create a new disk"),
        (with_(online=True), "can't be online"),
        (with_(steps=(Does(in_place=1),)), "in_place of the step Does is 1"),
        (with_(steps=(Does(online=True),)), "online, and not in_place"),
        (with_(steps=(Does(adopts="x"),)), "adopts of the step Does is 'x'"),
        (with_(steps=(Does(carries="x"),)), "carries of the step Does is 'x'"),
        (with_(steps=(Does(adopts=Path("x")), Does())), "a step follows"),
    ],
)
def test_a_plan_for_a_new_disk(plan: object, told: str) -> None:
    assert checked(PLAN) is PLAN
    with pytest.raises(ContractBroken) as raised:
        checked(plan)
    assert told in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_new_disk_carries_its_base_image() -> None:
    """Whether it is copied, or below the disk, or in it as a step states."""
    facts = dataclasses.replace(FACTS, base=BASE, file=None)
    request = dataclasses.replace(NEW, base=BASE)
    create = CreateRaw(virtual_size=MIB)
    for carrier in (
        CopyBase(base=BASE, format=DiskFormat.RAW),
        CreateQcow2(virtual_size=MIB, backing=BASE),
        Does(carries=BASE),
        Does(carries=BASE, adopts=Path("ready")),
    ):
        plan = with_(steps=(create, carrier))
        assert checked(plan, request=request, facts=facts) is plan
    for anew in (create, CreateQcow2(virtual_size=MIB)):
        plan = with_(steps=(carrier, anew))
        with pytest.raises(ContractBroken, match="replaces the base image"):
            checked(plan, request=request, facts=facts)
    other = dataclasses.replace(BASE, path=NOWHERE / "other")
    for steps in (
        (create,),
        (create, CopyBase(base=other, format=DiskFormat.RAW)),
        (create, Does()),
    ):
        with pytest.raises(ContractBroken, match="no step carries the base image"):
            checked(with_(steps=steps), request=request, facts=facts)


@pytest.mark.parametrize("what", ["base", "file"])
def test_what_replaces_a_disk_carries_what_is_on_it(what: str) -> None:
    """Neither an empty disk nor one that stands on the old one takes its place."""
    carried: BaseImage = getattr(FACTS, what)
    create = CreateRaw(virtual_size=MIB)
    copy = CopyBase(base=carried, format=DiskFormat.RAW)
    plan = with_(steps=(create, copy))
    assert amended(plan) is plan
    with pytest.raises(ContractBroken, match="CreateRaw replaces what is on the disk"):
        amended(with_(steps=(copy, create)))
    other = dataclasses.replace(carried, fd=carried.fd + 1)
    for steps in (
        (create,),
        (create, CopyBase(base=other, format=DiskFormat.RAW)),
    ):
        with pytest.raises(ContractBroken, match="no step carries what is on the disk"):
            amended(with_(steps=steps))
    with pytest.raises(ContractBroken, match="overlay in the disk's place"):
        amended(with_(steps=(CreateQcow2(virtual_size=MIB, backing=carried),)))


def test_a_disk_that_can_not_be_read_is_not_replaced() -> None:
    """Where there is nothing to carry, there is no carrying it."""
    unreadable = facts_on("ext4", current=CURRENT, obstacle="the test says so")
    with pytest.raises(ContractBroken, match="no step carries what is on the disk"):
        checked(PLAN, request=APPLY, facts=unreadable, current=CURRENT)


ROOM = {"mode": Mode.IN_PLACE, "promised_bytes": MIB}


@pytest.mark.parametrize(
    "step",
    [
        CreateRaw(virtual_size=MIB),
        CreateQcow2(virtual_size=MIB),
        CopyBase(base=BASE, format=DiskFormat.RAW),
        SetNocow(),
        Does(),
        Does(in_place=False),
    ],
)
def test_in_place_a_step_states_that_it_may_run_there(step: Step) -> None:
    """What isn't known to keep what the guest has written does not run on it."""
    for allowed in (Reserve(length=MIB), FillHoles(length=MIB), Does(in_place=True)):
        plan = with_(**ROOM, steps=(allowed,))
        assert amended(plan) is plan
        with pytest.raises(ContractBroken, match="does not state that it may run"):
            amended(with_(**ROOM, steps=(allowed, step)))


def test_beside_a_vm_a_step_states_that_it_is_safe() -> None:
    safe = Does(in_place=True, online=True)
    for step in (Reserve(length=MIB), safe):
        plan = with_(**ROOM, steps=(step,), online=True)
        assert amended(plan) is plan
        with pytest.raises(ContractBroken, match="resize can't be online"):
            amended(plan, operation=Operation.RESIZE)
    unsafe = FillHoles(length=MIB), Does(in_place=True), GrowRaw(virtual_size=MIB)
    for other in unsafe:
        with pytest.raises(ContractBroken, match="safe while a VM writes"):
            amended(with_(**ROOM, steps=(safe, other), online=True))


def test_only_a_new_disk_is_a_ready_made_file() -> None:
    """A disk that exists keeps what its guest has written."""
    plan = with_(steps=(Does(adopts=Path("ready"), carries=FACTS.base),))
    with pytest.raises(ContractBroken, match="only a new disk"):
        amended(plan)


def test_an_operation_of_a_later_version_is_as_apply() -> None:
    """A strategy that only knows resize does for others what it does for apply."""
    unheard_of = dataclasses.replace(APPLY, operation="unheard-of")  # type: ignore[arg-type]
    plan = with_(**ROOM, steps=(Reserve(length=MIB),), online=True)
    assert checked(plan, request=unheard_of, facts=FACTS, current=CURRENT) is plan


def test_a_disk_grows_by_steps() -> None:
    """One that is to grow is not as it should be."""
    nothing = with_(mode=Mode.NOTHING, steps=())
    assert amended(nothing) is nothing
    grow = dataclasses.replace(APPLY, operation=Operation.RESIZE)
    larger = dataclasses.replace(grow, virtual_size=CURRENT.virtual_size + MIB)
    with pytest.raises(ContractBroken, match="nothing is to be done, and the disk is"):
        checked(nothing, request=larger, facts=FACTS, current=CURRENT)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (1, "recipe of the step Does is 1, not a str"),
        ("", "recipe of the step Does has 0 characters"),
        ("r" * 2001, "has 2001 characters, not 1 to 2000"),
        ("a\nb", "recipe of the step Does is not printable"),
    ],
)
def test_a_recipe_is_a_short_text(recipe: object, says: str) -> None:
    """It is part of what names a prepared disk, and of what people read."""
    with pytest.raises(ContractBroken, match=re.escape(says)):
        checked(with_(steps=(Does(recipe=recipe),)))
    for fine in ("r" * 2000, "ä", None):
        plan = with_(steps=(Does(recipe=fine),))
        assert checked(plan) is plan


class Own(Reserve):
    """A class that does something else than the one that it inherits from."""

    def run(self, target: Target, progress: Progress) -> None: ...


class Says(Own):
    """One that says what its own ``run`` does."""

    in_place = True
    online = True


class OwnRaw(CreateRaw):
    """A class that makes something else than the one that it inherits from."""

    def run(self, target: Target, progress: Progress) -> None: ...


class Described(Reserve):
    """One that does the same in other words."""

    def describe(self) -> str:
        return "make room"


def test_what_is_inherited_says_nothing_of_another_run() -> None:
    """The framework knows its own steps, not what a plugin makes of them."""
    plan = with_(**ROOM, steps=(Own(length=MIB),), online=True)
    with pytest.raises(ContractBroken, match="Own does not state that it may run"):
        amended(plan)
    for step in (Says(length=MIB), Described(length=MIB)):
        plan = with_(**ROOM, steps=(step,), online=True)
        assert amended(plan) is plan


def test_an_inherited_recipe_says_nothing_of_another_run() -> None:
    """What a plugin's own code makes has no recipe until its author states one."""
    assert recipe_of(CreateRaw(virtual_size=MIB)) == f"{MIB} bytes"
    assert recipe_of(OwnRaw(virtual_size=MIB)) is None
    assert recipe_of(Does(recipe="mine")) == "mine"


def test_steps_state_a_recipe_where_a_clone_is_as_good() -> None:
    """An overlay names its base, and data that is never shared is the disk's own."""
    create = CreateQcow2(virtual_size=MIB, mapped=True)
    assert recipe_of(create)
    for other in ({"mapped": False}, {"backing": BASE}):
        assert recipe_of(dataclasses.replace(create, **other)) is None
    shared, allowed, never = (
        recipe_of(CopyBase(base=BASE, format=DiskFormat.RAW, sharing=one))
        for one in (Sharing.SHARED, Sharing.ALLOWED, Sharing.NEVER)
    )
    assert shared == allowed is not None
    assert never is None
    assert recipe_of(Reserve(length=MIB)) is None
