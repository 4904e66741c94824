"""Calling hooks: with what they take, and between versions and strategies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from allocpolicy import (
    Choice,
    DiskFormat,
    DiskRole,
    ImageError,
    Operation,
    PlanError,
    Policy,
    ReadOnly,
    Request,
    StrategyFailed,
    Unsupported,
    delegate,
)
from allocpolicy.registry import call, installed, recorded_options
from allocpolicy.registry.installed import Loaded
from allocpolicy.resolve.selection import resolve_stamp
from allocpolicy.testing import facts_on, observation
from allocpolicy.testing.records import NOWHERE
from tests.registry.test_installed import Install, install

__all__ = ["install"]

CURRENT = observation()
FACTS = facts_on("ext4", current=CURRENT)
REQUEST = Request(
    operation=Operation.PROVISION,
    destination=NOWHERE / "disk",
    virtual_size=1 << 20,
    format=DiskFormat.RAW,
    disk_role=DiskRole.ROOT,
)
HEAD = """
from allocpolicy import *

class Own(Strategy):
    api_version = 1
    summary = "the test's"
    options_schema = {
        "type": "object",
        "properties": {
            "size": {"type": "integer", "default": 1},
            "words": {"type": "array", "default": ["a"]},
        },
        "additionalProperties": False,
    }
    def plan(self, request):
        size = request.virtual_size
        return Plan(mode=Mode.STAGED, steps=(CreateRaw(virtual_size=size),),
                    peak_bytes=0, promised_bytes=size)
    def verify(self):
        return Verdict(judgement=Judgement.MEETS, reason="always")
    def attach(self, **given):
        return Attachment(discard="ignore", detect_zeroes="off", cache="none",
                          io="native")
"""

Own = Callable[..., Loaded]


@pytest.fixture
def own(install: Install) -> Own:
    """Return a function that installs a strategy ``own`` with these members."""

    def installed_with(*members: str, top: str = "", also: str = "") -> Loaded:
        lines = [f"    {line}" for one in members for line in one.splitlines()]
        code = "\n".join([HEAD, *lines, top])
        install("theirs", "own = theirs:Own", *also.split(";"), code=code)
        return installed.load("own")

    return installed_with


def test_a_hook_gets_what_it_takes(own: Own) -> None:
    """A strategy leaves out what it has no use for."""
    loaded = own("def observe(self, host):\n    return {'type': host.filesystem.type}")
    options = {"size": 1}
    made = call.plan(loaded, request=REQUEST, options=options, facts=FACTS_OF_NEW)
    assert made.promised_bytes == REQUEST.virtual_size
    seen = call.observe(loaded, request=REQUEST, options=options, host=FACTS.host)
    assert seen == {"type": "ext4"}
    assert call.verify(loaded, options=options, observation=CURRENT).reason == "always"


FACTS_OF_NEW = type(FACTS)(host=FACTS.host, base=None)


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ("PlanError('not on Sundays')", "strategy 'own': not on Sundays"),
        ("PlanError('not on its own')", "strategy 'own': not on its own"),
        ("PlanError('strategy own rests')", "strategy own rests"),
        ("Unsupported(Path('/srv'), 'too small')", "strategy 'own': too small"),
    ],
)
def test_a_refusal_names_the_strategy(own: Own, refusal: str, told: str) -> None:
    """Also once it went through a pickle, as it does between processes."""
    raising = f"    from pathlib import Path\n    raise {refusal}"
    hooks = ("observe", "exclusive", "plan", "amend")
    loaded = own(*(f"def {hook}(self):\n{raising}" for hook in hooks))
    options = {"size": 1}
    with pytest.raises((PlanError, Unsupported)) as observed:
        call.observe(loaded, request=REQUEST, options=options, host=FACTS.host)
    with pytest.raises((PlanError, Unsupported)) as locked:
        call.exclusive(loaded, request=REQUEST, options=options)
    with pytest.raises((PlanError, Unsupported)) as new:
        call.plan(loaded, request=REQUEST, options=options, facts=FACTS_OF_NEW)
    with pytest.raises((PlanError, Unsupported)) as changed:
        call.amend(
            loaded, request=REQUEST, current=CURRENT, options=options, facts=FACTS
        )
    for raised in (observed, locked, new, changed):
        assert told in str(raised.value)
        assert str(raised.value).count("own") == told.count("own")
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize("hook", ["observe", "exclusive"])
def test_a_refusal_of_any_hook_names_the_strategy(own: Own, hook: str) -> None:
    """Also that of a strategy to which the user let it delegate."""
    loaded = own(f"def {hook}(self):\n    return delegate('no-such')")
    given = {"host": FACTS.host} if hook == "observe" else {}
    told = r"^strategy 'own': it delegates to strategy 'no-such'"
    with pytest.raises(PlanError, match=told):
        getattr(call, hook)(loaded, request=REQUEST, options={}, **given)


@pytest.mark.parametrize(
    "error",
    [
        "FailedAfterwards(Path('/disk'), 'nothing was made')",
        "DestinationExists(Path('/disk'))",
        "PromiseBroken(Path('/disk'), 'space', 'it is thin')",
        "ConfigError('no')",
        "Replan('for ever')",
    ],
)
def test_what_only_the_framework_can_say_is_no_answer(own: Own, error: str) -> None:
    """A strategy doesn't know how the work ended, nor what was asked of whom."""
    raising = f"    from pathlib import Path\n    raise {error}"
    loaded = own(f"def verify(self):\n{raising}")
    with pytest.raises(StrategyFailed, match=rf" in verify\(\): {error[:6]}"):
        call.verify(loaded, options={}, observation=CURRENT)


def test_what_has_no_message_is_a_failure_as_well(own: Own) -> None:
    """Otherwise the command would end as if everything were done."""
    own_error = "class Odd(Exception):\n    def __str__(self):\n        sys.exit(0)"
    loaded = own("def verify(self):\n    raise Odd", top=f"import sys\n{own_error}")
    with pytest.raises(StrategyFailed, match="Odd: its message can't be had"):
        call.verify(loaded, options={}, observation=CURRENT)


@pytest.mark.parametrize(
    ("member", "told"),
    [
        ("def plan(self, request, clock): ...", "plan() needs 'clock'"),
        ("def plan(self, request, /): ...", "plan() needs 'request'"),
        ("def verify(self, *, request): ...", "verify() needs 'request'"),
        ("amend = 1", "amend is not a method"),
        ("async def attach(self, **given): ...", "attach() is a coroutine"),
    ],
)
def test_what_can_not_be_called_is_refused_when_it_is_loaded(
    own: Own, member: str, told: str
) -> None:
    with pytest.raises(StrategyFailed) as raised:
        own(member)
    assert told in str(raised.value)
    assert "'own' of theirs 1.5 (theirs:Own)" in str(raised.value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("del Own.api_version", "add api_version = 1 to the class"),
        ("Own.api_version = 0", "version 0"),
        ("Own.api_version = 99", "version 99 of the contract; this allocpolicy knows"),
        ("Own.api_version = True", "version True"),
        ("Own.api_version = '1'", "version '1'"),
    ],
)
def test_a_class_says_its_version_itself(own: Own, said: str, told: str) -> None:
    with pytest.raises(StrategyFailed, match="own") as raised:
        own(top=said)
    assert told in str(raised.value)


def test_a_version_is_not_inherited_from_another_distribution(own: Own) -> None:
    """It would change with what is installed; the same distribution's is its own."""
    own(top="class Second(Own): pass", also="second = theirs:Second")
    assert installed.load("second").api_version == 1


def test_nor_from_a_bundled_strategy(install: Install) -> None:
    code = (
        "from allocpolicy_strategies.space import Space\nclass Mine(Space):\n"
        "    summary = 'mine'\n"
    )
    install("mine", "mine = mine:Mine", code=code)
    with pytest.raises(StrategyFailed, match="Mine does not say which version"):
        installed.load("mine")


def test_a_strategy_that_knows_nothing_of_existing_disks_refuses_them(
    own: Own,
) -> None:
    """It is never asked, so that it can't answer with an empty disk."""
    with pytest.raises(
        PlanError, match=r"^strategy 'own' does not change existing disks$"
    ):
        call.amend(own(), request=REQUEST, current=CURRENT, options={}, facts=FACTS)


ANSWERS: Mapping[str, tuple[str, str]] = {
    "observe": ("return [1]", "observe(): it returned a list, not a mapping"),
    "plan": ("return None", "plan(): it returned None, not a Plan"),
    "amend": ("return 'nothing'", "amend(): it returned 'nothing', not a Plan"),
    "verify": ("return True", "verify(): it returned True, not Verdict"),
    "attach": ("return {}", "attach(): it returned a dict, not Attachment"),
    "exclusive": ("return 1", "exclusive(): it returned 1, not str"),
    "migrate": ("return 'x'", "migrate(): it returned 'x', not a mapping"),
}


def asked(loaded: Loaded, hook: str, options: Mapping[str, object]) -> object:
    given = {"request": REQUEST, "options": options}
    seen = {"options": options, "observation": CURRENT}
    more: Mapping[str, Mapping[str, object]] = {
        "observe": given | {"host": FACTS.host},
        "plan": given | {"facts": FACTS_OF_NEW},
        "amend": given | {"current": CURRENT, "facts": FACTS},
        "verify": seen,
        "attach": seen | {"machines": Policy().machines},
        "exclusive": given,
        "migrate": {"options": options, "version": "1"},
    }
    answer: object = getattr(call, hook)(loaded, **more[hook])
    return answer


@pytest.mark.parametrize("hook", ANSWERS)
def test_a_wrong_answer_names_strategy_distribution_hook_and_fault(
    own: Own, hook: str
) -> None:
    wrong, told = ANSWERS[hook]
    loaded = own(f"def {hook}(self, **given):\n    {wrong}")
    with pytest.raises(StrategyFailed) as raised:
        asked(loaded, hook, {"size": 1})
    whose = "strategy 'own' of theirs 1.5 (theirs:Own) failed in "
    assert str(raised.value) == whose + told


@pytest.mark.parametrize("hook", ANSWERS)
@pytest.mark.parametrize(
    "change", ["['size'] = 2", ".clear()", "['words'].append('b')", "._items = {}"]
)
def test_options_are_read_only(own: Own, hook: str, change: str) -> None:
    """Whatever a hook does to them, the next one gets the same."""
    loaded = own(f"def {hook}(self, options):\n    options{change}")
    options = {"size": 1, "words": ["a"]}
    kept = copy.deepcopy(options)
    with pytest.raises(StrategyFailed, match=hook):
        asked(loaded, hook, options)
    assert options == kept


def test_read_only_mappings_are_values() -> None:
    """A plan may hold them: they are equal to dicts, and can be pickled and hashed."""
    one = ReadOnly({"a": 1})
    assert one == {"a": 1}
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(one) == hash(copy.deepcopy(one))
    with pytest.raises(AttributeError, match="read-only"):
        del one._items


MIGRATES = """
def migrate(self, options, version):
    options = dict(options)
    if version is None or int(version[0]) < 1:
        options["size"] = options.pop("bytes", 7)
    return options
"""


@pytest.mark.parametrize(
    ("writer", "options", "size"),
    [
        (("theirs", "0.3"), {"bytes": 3}, 3),
        (("theirs", "1.5"), {"size": 3}, 3),
        (("theirs", "1.4"), {"size": 3}, 3),
        (("other", "1.5"), {"bytes": 3}, 3),
        ((None, None), {"bytes": 3}, 3),
        ((None, None), {}, 7),
    ],
)
def test_options_of_a_stamp_are_migrated(
    own: Own,
    writer: tuple[str | None, str | None],
    options: Mapping[str, object],
    size: int,
) -> None:
    """A strategy may rename them: disks that are stamped with the old names stay."""
    choice = Choice(
        strategy="own", options=options, distribution=writer[0], version=writer[1]
    )
    today = recorded_options.of_today(choice, loaded=own(MIGRATES))
    assert today == {"size": size, "words": ["a"]}
    selected = resolve_stamp(choice, path=Path("disk"), policy=Policy())
    assert selected.options == today
    assert (selected.choice.distribution, selected.choice.version) == ("theirs", "1.5")


def test_migrated_options_are_validated(own: Own) -> None:
    """A stamp is its disk's owner's word, and so is what comes of it."""
    own("def migrate(self, options):\n    return {'size': 'large'}")
    choice = Choice(strategy="own", options={})
    with pytest.raises(ImageError, match="size"):
        resolve_stamp(choice, path=Path("disk"), policy=Policy())


DELEGATES = """
def plan(self, request, options, facts):
    return self.to().plan(request=request, facts=facts)
def verify(self, observation):
    return self.to().verify(observation=observation)
"""


def test_a_strategy_leaves_the_work_to_another(own: Own) -> None:
    """What the other returns is what it would return to the framework."""
    to = "def to(self):\n    return delegate('space', {'reserve': 'zero-fill'})"
    loaded = own(DELEGATES, to)
    made = call.plan(loaded, options={}, request=REQUEST, facts=FACTS_OF_NEW)
    space, zeroes = installed.load("space"), {"reserve": "zero-fill"}
    itself = call.plan(space, options=zeroes, request=REQUEST, facts=FACTS_OF_NEW)
    assert made == itself
    assert delegate("space").options == {"reserve": "fallocate"}


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("no-such", {}, "strategy 'no-such' is not installed"),
        ("space", {"reserve": "somehow"}, "reserve"),
        ("space", {"reserved": "fallocate"}, "reserved"),
    ],
)
def test_what_it_can_not_leave_is_refused(
    own: Own, name: str, options: Mapping[str, object], told: str
) -> None:
    """The user may have chosen it: it is the request's fault."""
    loaded = own(DELEGATES, f"def to(self):\n    return delegate({name!r}, {options})")
    with pytest.raises(PlanError, match=told):
        call.plan(loaded, request=REQUEST, options={}, facts=FACTS_OF_NEW)


@pytest.mark.parametrize(
    "bound",
    ["def to(self):\n    return delegate(NEXT)", "@property\ndef _(self): ..."],
)
def test_circles_are_refused(own: Own, bound: str) -> None:
    """However it is bound: when it is asked for, or once and kept."""
    kept = "\nOwn.to = lambda self: KEPT.setdefault(NEXT, delegate(NEXT))\nKEPT = {}"
    second = (
        "NEXT = 'second'\nclass Second(Own):\n    def plan(self, request, facts):\n"
        "        return delegate('own').plan(request=request, facts=facts)"
    )
    top = second if "NEXT" in bound else second + kept
    loaded = own(DELEGATES, bound, top=top, also="second = theirs:Second")
    with pytest.raises(StrategyFailed) as raised:
        call.plan(loaded, request=REQUEST, options={}, facts=FACTS_OF_NEW)
    assert "in a circle: 'own' to 'second' to 'own'" in str(raised.value)
