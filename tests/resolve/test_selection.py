"""Which value wins, over which, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Choice, DiskRole
from allocpolicy.errors import (
    DuplicateStrategy,
    ExtraSpecError,
    ImageError,
    StrategyFailed,
    StrategyNotFound,
)
from allocpolicy.registry import installed
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.resolve.selection import (
    Origin,
    Selection,
    resolve,
    resolve_fallback,
    resolve_stamp,
)

MODULE = """
from allocpolicy.contract.strategy import Strategy

class Brisk(Strategy):
    api_version = 1
    summary = "Fast."
    options_schema = {
        "type": "object",
        "properties": {
            "data": {"type": "string", "enum": ["sparse", "full"], "default": "sparse"},
            "depth": {"type": "integer", "minimum": 1, "default": 2},
        },
    }
    def plan(self, **given): ...
    def verify(self, **given): ...
    def attach(self, **given): ...

class Calm(Brisk):
    options_schema = {"type": "object", "properties": {}}
"""

ENTRY_POINTS = f"""
[{installed.GROUP}]
brisk = resolvable:Brisk
calm = resolvable:Calm
broken = resolvable:Missing
twice = resolvable:Calm
twice = resolvable:Brisk
"""

STRATEGY = "allocpolicy:strategy"
ROOT = f"{STRATEGY}.root"
SWAP = f"{STRATEGY}.swap"

Resolve = Callable[..., Selection]


@pytest.fixture(autouse=True)
def strategies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist_info = tmp_path / "resolvable-1.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Name: resolvable\nVersion: 1\n")
    (dist_info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "resolvable.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "resolvable", raising=False)


POLICY = Policy(default_strategy="calm", default_origin="[DEFAULT] … in nova.conf")


DISK = Path("/disk")


def flavor(extra_specs: Mapping[str, str]) -> Flavor:
    return Flavor(name="m1", extra_specs=extra_specs, source=Path("f.yaml"))


def root(
    extra_specs: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    policy: Policy = POLICY,
) -> Selection:
    return resolve(
        policy=policy,
        disk_role=DiskRole.ROOT,
        flavor=None if extra_specs is None else flavor(extra_specs),
        overrides=overrides,
    )


def refusal(
    extra_specs: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    policy: Policy = POLICY,
) -> str:
    with pytest.raises(ExtraSpecError) as raised:
        root(extra_specs, overrides=overrides, policy=policy)
    return str(raised.value)


def told(selection: Selection) -> list[tuple[str, object, str]]:
    return [(one.subject, one.value, one.outcome) for one in selection.candidates]


def test_configuration_decides_when_nobody_else_does() -> None:
    """Without extra specs the default strategy is selected, with its origin."""
    for extra_specs in (None, {}, {"hw:cpu_policy": "dedicated"}):
        selection = root(extra_specs)
        assert (selection.strategy, selection.options) == ("calm", {})
        assert selection.origin == Origin(
            key="preallocate_images", source="[DEFAULT] … in nova.conf"
        )


def test_flavor_goes_before_configuration() -> None:
    """The flavor's key wins, and explain shows over what."""
    selection = root({STRATEGY: "brisk"})
    assert selection.strategy == "brisk"
    assert selection.origin == Origin(key=STRATEGY, source="flavor m1 in f.yaml")
    assert told(selection)[:2] == [
        ("strategy", "brisk", "won"),
        ("strategy", "calm", f"overridden by {STRATEGY} (flavor m1 in f.yaml)"),
    ]


def test_key_of_the_disk_goes_before_the_flavors() -> None:
    """Per-disk keys are for that disk alone."""
    specs = {STRATEGY: "calm", ROOT: "brisk", SWAP: "calm"}
    selection = root(specs)
    assert selection.strategy == "brisk"
    assert ("strategy", "calm", "ignored: this is the root disk") in told(selection)
    swap = resolve(policy=POLICY, disk_role=DiskRole.SWAP, flavor=flavor(specs))
    assert swap.origin.key == SWAP


def test_command_line_replaces_the_same_key_only() -> None:
    """--extra-spec merges into the flavor's: its per-disk key stays in force."""
    selection = root({STRATEGY: "calm"}, overrides={STRATEGY: "brisk"})
    assert selection.origin == Origin(key=STRATEGY, source="command line")
    assert told(selection)[1][2] == f"overridden by {STRATEGY} (command line)"
    selection = root({ROOT: "calm"}, overrides={STRATEGY: "brisk"})
    assert (selection.strategy, selection.origin.key) == ("calm", ROOT)
    assert told(selection)[1] == (
        "strategy",
        "brisk",
        f"overridden by {ROOT} (flavor m1 in f.yaml)",
    )


def test_every_default_is_a_candidate() -> None:
    """What [allocpolicy] wins over in the configuration is shown too."""
    policy = Policy(
        default_strategy="calm",
        overridden_defaults=(("brisk", "[DEFAULT]"), ("none", "default")),
    )
    values = [value for _, value, _ in told(root(policy=policy))]
    assert values == ["calm", "brisk", "none"]


def test_options_are_converted_each_with_its_origin() -> None:
    """Options come from the flavor, the command line and the schema's defaults."""
    selection = root(
        {STRATEGY: "brisk", "allocpolicy:brisk.data": "full"},
        overrides={"allocpolicy:brisk.depth": "7"},
    )
    assert selection.options == {"data": "full", "depth": 7}
    assert {k: v.source for k, v in selection.option_origins.items()} == {
        "data": "flavor m1 in f.yaml",
        "depth": "command line",
    }
    assert (
        "brisk.depth",
        2,
        "overridden by allocpolicy:brisk.depth (command line)",
    ) in (told(selection))
    assert root({STRATEGY: "brisk"}).option_origins["data"].source == "default"


def test_overridden_value_is_not_judged() -> None:
    """The command line mends a flavor."""
    selection = root(
        {STRATEGY: "bogus", "allocpolicy:brisk.data": "bogus"},
        overrides={STRATEGY: "brisk", "allocpolicy:brisk.data": "full"},
    )
    assert selection.options["data"] == "full"


@pytest.mark.parametrize(
    ("specs", "why"),
    [
        ({"allocpolicy:stratgy": "calm"}, "did you mean 'allocpolicy:strategy'?"),
        ({STRATEGY: "brsk"}, "did you mean 'brisk'?"),
        ({SWAP: "brsk"}, f"{SWAP} = 'brsk'"),
        ({STRATEGY: ""}, "no such strategy"),
        ({"allocpolicy:stratgy.root": "calm"}, f"did you mean {ROOT!r}?"),
        (
            {"allocpolicy:brsk.data": "full"},
            "did you mean 'allocpolicy:brisk.data'?",
        ),
        ({"allocpolicy:brisk.dta": "full"}, "did you mean 'data'?"),
        (
            {"allocpolicy:brisk.data": "fll"},
            "allowed: sparse, full; did you mean 'full'",
        ),
        ({"allocpolicy:calm.data": "full"}, "no such option; allowed: nothing"),
    ],
)
def test_bad_extra_specs_are_refused(specs: dict[str, str], why: str) -> None:
    """The refusal names key, value, what is allowed and the nearest match."""
    ((key, value),) = specs.items()
    for message in (refusal(specs), refusal(overrides=specs)):
        assert f"extra spec {key} = {value!r}: " in message
        assert why in message


def test_options_for_broken_strategies_do_no_harm() -> None:
    """What isn't selected need not work; when it is, it fails."""
    selection = root({"allocpolicy:broken.x": "1", "allocpolicy:twice.x": "1"})
    assert ("broken.x", "1", "ignored: the strategy is calm") in told(selection)
    with pytest.raises(StrategyFailed):
        root({STRATEGY: "broken"})
    with pytest.raises(DuplicateStrategy):
        root({STRATEGY: "twice"})


def test_allowed_strategies_limit_extra_specs() -> None:
    """The operator's list binds flavors and command line, not the operator."""
    policy = Policy(default_strategy="calm", allowed_strategies=("brisk",))
    assert root({}, policy=policy).strategy == "calm"
    assert root({STRATEGY: "brisk"}, policy=policy).strategy == "brisk"
    assert "allowed: brisk" in refusal({STRATEGY: "calm"}, policy=policy)
    assert "allowed_strategies" in refusal(overrides={ROOT: "calm"}, policy=policy)


def test_closed_flavors_are_ignored_and_shown() -> None:
    """With flavor_override = false only the configuration decides."""
    policy = Policy(
        default_strategy="calm",
        flavor_override=False,
        flavor_override_origin="[allocpolicy] flavor_override in x.conf",
    )
    selection = root(
        {STRATEGY: "brisk", "allocpolicy:brisk.data": "full", "allocpolicy:odd": "1"},
        policy=policy,
    )
    assert selection.strategy == "calm"
    why = "ignored: flavor_override = false ([allocpolicy] flavor_override in x.conf)"
    for candidate in ("strategy", "brisk"), ("brisk.data", "full"), ("odd", "1"):
        assert (*candidate, why) in told(selection)
    for key in (STRATEGY, "allocpolicy:brisk.data"):
        message = refusal(overrides={key: "brisk"}, policy=policy)
        assert "flavor_override = false" in message
        assert "x.conf" in message


@pytest.mark.parametrize("override", [True, False])
def test_a_stamp_chooses_as_extra_specs_do(override: bool) -> None:
    """What the operator chose himself a stamp may repeat; it may name nothing else."""
    policy = Policy(
        default_strategy="calm",
        fallback_strategies=("twice",),
        allowed_strategies=("brisk",),
        flavor_override=override,
    )
    for name in ("calm", "brisk"):
        choice = Choice(strategy=name, options={})
        assert resolve_stamp(choice, path=DISK, policy=policy).strategy == name
    with pytest.raises(ImageError, match=r"names strategy 'broken'.*--strategy"):
        # It is not even loaded.
        resolve_stamp(Choice(strategy="broken", options={}), path=DISK, policy=policy)
    with pytest.raises(DuplicateStrategy):
        resolve_stamp(Choice(strategy="twice", options={}), path=DISK, policy=policy)


def test_a_stamp_chooses_freely_where_extra_specs_do() -> None:
    choice = Choice(strategy="brisk", options={})
    made = resolve_stamp(choice, path=DISK, policy=Policy(default_strategy="calm"))
    assert made.strategy == "brisk"
    closed = Policy(default_strategy="calm", flavor_override=False)
    with pytest.raises(ImageError, match="flavor_override = false"):
        resolve_stamp(choice, path=DISK, policy=closed)


def test_unknown_default_names_its_origin() -> None:
    """A configuration that names no installed strategy is told where."""
    policy = Policy(default_strategy="clam", default_origin="[DEFAULT] … in nova.conf")
    with pytest.raises(StrategyNotFound) as raised:
        root(policy=policy)
    assert "did you mean 'calm'?" in str(raised.value)
    assert "nova.conf" in str(raised.value)


def test_fallback_has_its_own_options_of_the_same_specs() -> None:
    """The fallback's extra specs count; what was given up is shown with the reason."""
    specs = {STRATEGY: "calm", "allocpolicy:brisk.data": "full"}
    fallen = resolve_fallback(root(specs), name="brisk", reason="no fallocate")
    assert (fallen.strategy, fallen.options) == ("brisk", {"data": "full", "depth": 2})
    assert fallen.origin.key == "fallback_strategies"
    assert told(fallen)[:2] == [
        ("strategy", "brisk", "won"),
        ("strategy", "calm", "given up for brisk: no fallocate"),
    ]
    again = resolve_fallback(fallen, name="calm", reason="no reflink")
    assert [value for _, value, outcome in told(again) if outcome == "won"] == ["calm"]
    with pytest.raises(StrategyNotFound, match="fallback_strategies"):
        resolve_fallback(again, name="gone", reason="")


def test_no_option_costs_no_import_of_jsonschema(tmp_path: Path) -> None:
    """Resolving defaults imports neither jsonschema nor YAML."""
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from types import SimpleNamespace\n"
        "from allocpolicy.contract import strategy\n"
        "from allocpolicy.resolve import selection\n"
        "policy = SimpleNamespace(default_strategy='calm', default_origin='test',\n"
        "    overridden_defaults=(), flavor_override=True, allowed_strategies=())\n"
        "selection.resolve(policy=policy, disk_role=strategy.DiskRole.ROOT)\n"
        "sys.exit(any(m in sys.modules for m in ('jsonschema', 'yaml')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
