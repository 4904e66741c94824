"""Strategies that are wrong in one way each: the suite tells each, and by which law."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from allocpolicy import DiskFormat, StrategyFailed
from allocpolicy.overriding import override
from allocpolicy.testing.base_images import make_base
from allocpolicy.testing.ground import Ground
from allocpolicy.testing.law import PureLaw
from allocpolicy.testing.laws import laws
from allocpolicy.testing.mounts import filesystem_of
from allocpolicy.testing.outcome import Outcome
from allocpolicy.testing.subject import Place, Subject, subject
from allocpolicy.testing.suite import Result, result_of
from tests.testing.mutants import catalogue
from tests.testing.mutants.catalogue import Mutant
from tests.testing.mutants.healthy import Healthy
from tests.testing.mutants.of_steps import POOL, end_what_was_left

pytestmark = pytest.mark.system

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "conformance.md"
LAWS = {law.name: law for law in laws()}
DEFAULTS: tuple[Mapping[str, object], ...] = ({},)
MUTANTS = tuple(catalogue.mutants())


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the mutants, as a distribution of their own."""
    directory = tmp_path_factory.mktemp("site")
    catalogue.install(directory)
    # The last is for a process that a law starts: allocpolicy is still the installed.
    added = (str(directory), str(Path(__file__).parents[2]))
    sys.path.insert(0, added[0])
    sys.path.append(added[1])
    yield directory
    for path in added:
        sys.path.remove(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePlace(Ground):
    """A ground where a mutant is tried at one kind of disk only."""

    format: DiskFormat

    @override
    def places(self, subject: Subject) -> Iterator[Place]:
        yield Place(
            subject=subject,
            directory=self.directory,
            filesystem=self.filesystem,
            format=self.format,
            base=self.bases[0] if self.bases else None,
            options=subject.option_sets[0],
        )


@contextmanager
def with_a_pool(directory: Path) -> Iterator[None]:
    """Have a ready-made disk in the directory, as its author would."""
    pool = directory / POOL
    pool.mkdir()
    (pool / "ready").write_bytes(b"disk")
    yield


def tried(name: str, mutant: Mutant, *, directory: Path) -> Result:
    """Try a mutant's law on it, or on what it is made of, where the law sees it.

    What isn't about options is tried with the defaults only.
    """
    law = LAWS[mutant.law]
    one = subject(name, option_sets=None if "options" in law.name else DEFAULTS)
    if isinstance(law, PureLaw):
        return result_of(law, one, grounds=())
    if "kill" in law.name:
        one = subject(name, option_sets=DEFAULTS, environment=with_a_pool)
    ground = OnePlace(
        directory=directory,
        filesystem=filesystem_of(directory),
        bases=(make_base(directory, mutant.base),) if mutant.base else (),
        format=mutant.format,
    )
    return result_of(law, one, grounds=(ground,))


HERE = [one for one in MUTANTS if one.law not in catalogue.REFLINK]
ELSEWHERE = [one for one in MUTANTS if one.law in catalogue.REFLINK]


@pytest.mark.parametrize("mutant", HERE, ids=lambda one: f"{one.name}: {one.law}")
def test_the_suite_tells_each(mutant: Mutant, tmp_path: Path) -> None:
    """In one line that says what is wrong, and where."""
    _told(mutant, directory=tmp_path)


@pytest.mark.parametrize("mutant", ELSEWHERE, ids=lambda one: f"{one.name}: {one.law}")
def test_the_suite_tells_what_needs_reflinks(mutant: Mutant, xfs: Path) -> None:
    _told(mutant, directory=xfs)
    assert tried("healthy", mutant, directory=xfs).outcome is Outcome.HELD


def _told(mutant: Mutant, *, directory: Path) -> None:
    try:
        result = tried(mutant.name, mutant, directory=directory)
    finally:
        end_what_was_left()
    assert result.outcome is Outcome.BROKEN, result
    assert str(result).isprintable()
    assert str(directory) not in str(result)


FIRST = {(one.law, one.format, one.base): one for one in HERE}


@pytest.mark.parametrize("mutant", FIRST.values(), ids=lambda one: one.law)
def test_what_they_are_made_of_is_right(mutant: Mutant, tmp_path: Path) -> None:
    """A law that nothing keeps would tell every mutant."""
    result = tried("healthy", mutant, directory=tmp_path)
    assert result.outcome is Outcome.HELD, result


SLEEPS = """
import time
time.sleep(0.15)
from tests.testing.mutants.healthy import Healthy
class Sleeps(Healthy):
    api_version = 1
"""
INHERITS = """
from tests.testing.mutants.healthy import Healthy
class Inherits(Healthy):
    pass
"""
HERE_ONLY = """
import os, pathlib
if "PYTHONHASHSEED" in os.environ:
    tries = pathlib.Path(__file__).with_name("tries")
    tries.open("a").write("x")
    if len(tries.read_text()) != 3:
        raise RuntimeError("it is another process")
from tests.testing.mutants.healthy import Healthy
class Hereonly(Healthy):
    api_version = 1
"""


def installed(site: Path, name: str, text: str) -> None:
    """Install a strategy of a distribution of its own."""
    dist_info = site / f"{name}-1.dist-info"
    dist_info.mkdir()
    (site / f"{name}.py").write_text(text)
    (dist_info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
    told = f"[allocpolicy.strategies]\n{name} = {name}:{name.capitalize()}\n"
    (dist_info / "entry_points.txt").write_text(told)


def test_a_module_that_sleeps_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no processor time, and each command waits for it all the same."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    installed(site, "sleeps", SLEEPS)
    one = subject("sleeps", option_sets=DEFAULTS)
    result = result_of(LAWS["import-is-quick"], one, grounds=())
    assert result.outcome is Outcome.BROKEN, result


def test_a_process_that_does_not_answer_is_followed_by_another(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    installed(site, "hereonly", HERE_ONLY)
    one = subject("hereonly", option_sets=DEFAULTS)
    result = result_of(LAWS["plans-are-steady"], one, grounds=())
    assert result.outcome is Outcome.BROKEN
    assert "it can't be asked in another process: " in result.reasons[0]
    assert "RuntimeError: it is another process" in result.reasons[0]
    (site / "tries").write_text("x")  # the second is answered
    again = result_of(LAWS["plans-are-steady"], one, grounds=())
    assert again.outcome is Outcome.HELD, again


def test_a_version_that_is_inherited_is_refused(site: Path) -> None:
    """It is no strategy that laws could be tried on."""
    installed(site, "inherits", INHERITS)
    with pytest.raises(StrategyFailed, match="add api_version = 1 to the class"):
        subject("inherits")


def test_none_is_forgotten() -> None:
    """Each is a strategy whose first line says what is wrong about it."""
    told = {mutant.strategy for mutant in MUTANTS}
    known = set(_below(Healthy))
    assert {one for one in known if one.__module__.startswith("tests.")} == told
    for mutant in MUTANTS:
        assert mutant.mistake.endswith("."), mutant


def _below(strategy: type[Healthy]) -> Iterator[type[Healthy]]:
    for one in strategy.__subclasses__():
        if not one.__name__.startswith("_"):
            yield one
        yield from _below(one)


def test_the_page_lists_each() -> None:
    """In the order of the laws, with the mistake in its author's words."""
    rows = [f"| {one.mistake} | `{one.law}` |" for one in MUTANTS]
    table = DOCUMENT.read_text("utf-8").partition("| mistake | law |")[2]
    listed = table.partition("\n\n")[0].splitlines()[2:]
    assert listed == rows
