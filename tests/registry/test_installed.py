"""Discovery and loading of strategies, from distributions that the tests write."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stevedore.extension import ExtensionManager

from allocpolicy.contract.strategy import Strategy
from allocpolicy.errors import DuplicateStrategy, StrategyFailed, StrategyNotFound
from allocpolicy.registry import installed, loading
from allocpolicy.registry.entry_points import Found

GOOD = """
from allocpolicy.contract.strategy import Strategy

class Good(Strategy):
    api_version = 1
    summary = "Does no harm."
    def plan(self, **given): ...
    def verify(self, **given): ...
    def attach(self, **given): ...
"""

BAD_DEFAULT = {
    "type": "object",
    "properties": {"a": {"type": "string", "default": "x", "enum": ["y"]}},
}

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Write a distribution of one module, with these entry points, onto sys.path."""

    def install(module: str, *entry_points: str, code: str = GOOD) -> None:
        site = tmp_path / module
        dist_info = site / f"{module}-1.5.dist-info"
        dist_info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (dist_info / "METADATA").write_text(f"Name: {module}\nVersion: 1.5\n")
        lines = [f"[{installed.GROUP}]", *entry_points]
        (dist_info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def failure(name: str) -> StrategyFailed:
    with pytest.raises(StrategyFailed) as raised:
        installed.load(name)
    assert "\n" not in str(raised.value)
    return raised.value


def test_strategy_is_found_and_loaded(install: Install) -> None:
    """An entry point of an installed distribution is a strategy."""
    install("acme", "brisk = acme:Good")
    loaded = installed.load("brisk")
    assert loaded.found == Found(
        name="brisk", target="acme:Good", distribution="acme", version="1.5"
    )
    assert loaded.strategy.summary == "Does no harm."
    assert "brisk" in installed.names()


def test_discovery_is_sorted(install: Install) -> None:
    """The order of installation doesn't show."""
    install("acme", "zeta = acme:Good", "beta = acme:Good")
    install("wonka", "alpha = wonka:Good")
    found = installed.find_all()
    assert list(found) == sorted(found, key=lambda one: one.name)
    assert {"alpha", "beta", "zeta"} <= set(installed.names())


def test_unknown_strategy_is_told_the_nearest(install: Install) -> None:
    """The refusal lists what is installed."""
    install("acme", "brisk = acme:Good")
    with pytest.raises(StrategyNotFound) as raised:
        installed.find("brsk")
    assert "did you mean 'brisk'?" in str(raised.value)


def test_duplicates_are_refused_with_both_owners(install: Install) -> None:
    """A name that two claim is nobody's, though they aren't neighbours."""
    install("acme", "brisk = acme:Good", "calm = acme:Good")
    install("wonka", "brisk = wonka:Good")
    with pytest.raises(DuplicateStrategy) as raised:
        installed.load("brisk")
    assert raised.value.owners == ("acme 1.5 (acme:Good)", "wonka 1.5 (wonka:Good)")
    assert installed.load("calm").found.distribution == "acme"
    assert installed.names().count("brisk") == 1


def test_duplicates_of_one_owner_are_refused(install: Install) -> None:
    """Whoever owns them: also when one distribution claims a name twice."""
    install("acme", "brisk = acme:Good", "brisk = acme:Other")
    with pytest.raises(DuplicateStrategy, match=r"acme:Good.* and .*acme:Other"):
        installed.find("brisk")


def test_broken_strategy_harms_nobody_else(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """A plugin that isn't selected isn't imported."""
    caplog.set_level(logging.WARNING)
    install("broken", "bad = broken:Good", code="raise SystemError('imported')")
    install("acme", "brisk = acme:Good")
    assert installed.load("brisk").found.name == "brisk"
    assert "bad" in installed.names()
    assert not caplog.records


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("raise RuntimeError('two\\nlines')", RuntimeError),
        ("import no_such_module", ModuleNotFoundError),
        ("def f(:", SyntaxError),
        ("raise SystemExit(3)", SystemExit),
        ("assert False", AssertionError),
        ("", AttributeError),
        (GOOD + "\n    def __init__(self, needed): ...", TypeError),
        (GOOD.replace("def verify", "def verified"), TypeError),
    ],
)
def test_error_of_a_selected_strategy_is_told_with_its_target(
    install: Install, code: str, cause: type[BaseException]
) -> None:
    """The error names the plugin, its target and the fault, from the original."""
    install("broken", "bad = broken:Good", code=code)
    error = failure("bad")
    assert error.name == "bad"
    assert error.owner.endswith(" (broken:Good)")
    assert isinstance(error.__cause__, cause)
    assert cause.__name__ in str(error)


@pytest.mark.parametrize(
    ("member", "why"),
    [
        ("api_version = 2", "version 2"),
        ("summary = ''", "no summary"),
        ("summary = None", "no summary"),
        ("summary = 'a\\nb'", "one line"),
        ("options_schema = 'none'", "not a mapping"),
        ("options_schema = {'type': 'object', 'properties': {'a': {}}}", "type"),
        (f"options_schema = {BAD_DEFAULT!r}", "defaults are not valid"),
    ],
)
def test_contract_is_checked(install: Install, member: str, why: str) -> None:
    """What a strategy declares must be what the contract asks for."""
    install("acme", "odd = acme:Good", code=f"{GOOD}\n    {member}\n")
    assert why in str(failure("odd"))


def test_missing_summary_is_refused(install: Install) -> None:
    """A strategy says what it is for."""
    install("acme", "odd = acme:Good", code=GOOD.replace("summary", "motto"))
    assert "no summary" in str(failure("odd"))


@pytest.mark.parametrize("code", ["class Good: ...", "def Good(): return 0"])
def test_only_a_strategy_is_a_strategy(install: Install, code: str) -> None:
    """Something else by that name is refused, falsy objects too."""
    install("acme", "odd = acme:Good", code=code)
    assert "not a subclass" in str(failure("odd"))


@pytest.mark.parametrize("name", ["strategy", "Brisk", "a.b", "a b"])
def test_name_must_fit_the_grammar_of_keys(install: Install, name: str) -> None:
    """allocpolicy:<strategy>.<option> couldn't be told from other keys."""
    install("acme", f"{name} = acme:Good")
    assert "a-z" in str(failure(name))


def test_reinstallation_is_seen_at_once(install: Install, tmp_path: Path) -> None:
    """As installers do it: the metadata directory is removed and made again."""
    install("acme", "brisk = acme:Good")
    assert installed.load("brisk").found.name == "brisk"
    metadata = tmp_path / "acme" / "acme-1.5.dist-info"
    kept = metadata.rename(metadata.with_name("kept"))
    metadata.mkdir()
    (metadata / "METADATA").write_bytes((kept / "METADATA").read_bytes())
    (metadata / "entry_points.txt").write_text(
        f"[{installed.GROUP}]\ncalm = acme:Good\n"
    )
    assert installed.load("calm").found.name == "calm"
    with pytest.raises(StrategyNotFound):
        installed.find("brisk")


def test_distribution_without_metadata_is_unknown(
    install: Install, tmp_path: Path
) -> None:
    """An entry point that lost its distribution is still told."""
    install("lost", "lost = lost:Lost")
    (tmp_path / "lost" / "lost-1.5.dist-info" / "METADATA").unlink()
    assert str(installed.find("lost")) == "unknown unknown (lost:Lost)"


@pytest.mark.parametrize("target", ["", "a b", "acme:", "acme:Good:x", "acme;Good"])
def test_a_target_that_names_nothing_is_told(install: Install, target: str) -> None:
    install("acme", f"brisk = {target}")
    assert "module:object" in failure("brisk").reason


def test_without_stevedore_the_same_is_loaded() -> None:
    """What a command finds, the start of a VM finds."""
    kinds = {name: type(installed.load(name).strategy) for name in installed.names()}
    assert kinds
    with loading.directly():
        assert kinds == {name: type(installed.load(name).strategy) for name in kinds}


@pytest.mark.parametrize("target", ["acme:Gone", "acme.gone:Brisk", "acme;Brisk"])
def test_without_stevedore_the_same_is_told(install: Install, target: str) -> None:
    install("acme", f"brisk = {target}")
    told = failure("brisk")
    with loading.directly():
        assert failure("brisk").args == told.args


def test_stevedore_finds_the_same_strategies() -> None:
    """Whoever uses it finds what is found here."""
    manager: ExtensionManager[Strategy] = ExtensionManager(
        installed.GROUP, invoke_on_load=True
    )
    theirs = {one.name: type(one.obj) for one in manager}
    assert theirs == {
        name: type(installed.load(name).strategy) for name in installed.names()
    }
