"""The suite in an author's own tests: a class to subclass, one test for each law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from allocpolicy import Error
from allocpolicy.testing import entrance, suite
from allocpolicy.testing.entrance import variables
from allocpolicy.testing.ground import Ground
from allocpolicy.testing.law import ExecutedLaw, Law
from allocpolicy.testing.laws import laws
from allocpolicy.testing.outcome import OUTCOME, UNNEEDED, Outcome
from allocpolicy.testing.subject import Subject
from allocpolicy.testing.suite import Result

_SUBJECT = pytest.StashKey[Subject]()
_GROUNDS = pytest.StashKey[Sequence[Ground]]()


class StrategyConformance:
    """Derive a class ``Test…`` from it, and say which strategy it is about."""

    strategy: ClassVar[str] = ""  #: the name of an installed strategy
    #: the options to try it with; None: each value that its schema names
    option_sets: ClassVar[Sequence[Mapping[str, object]] | None] = None
    #: variables that it needs; override `set_up` for more
    environment: ClassVar[Mapping[str, str]] = {}
    #: the names of laws that it is known to break, each with the reason
    waived: ClassVar[Mapping[str, str]] = {}
    #: where disks are made; by default where temporary files are
    directories: ClassVar[Sequence[Path]] = ()
    #: kinds of new filesystems to mount, as root
    filesystems: ClassVar[Sequence[str]] = ()

    @contextmanager
    def set_up(self, directory: Path) -> Iterator[None]:
        """Have what the strategy needs while a law is tried.

        :param directory: the law's own; disks are made in it.
        """
        yield

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each law."""
        if "law" in metafunc.fixturenames:
            metafunc.parametrize("law", laws(), ids=lambda law: law.name)

    def test_law(self, law: Law, request: pytest.FixtureRequest) -> None:
        """The strategy keeps to the law, wherever it is tried."""
        try:
            subject = self._subject(request)
            made = isinstance(law, ExecutedLaw)
            grounds = self._grounds(request) if made else ()
        except Error as error:
            pytest.fail(str(error), pytrace=False)
        result = suite.result_of(law, subject, grounds=grounds)
        request.node.user_properties.append(
            (OUTCOME, (subject.name, str(result.outcome)))
        )
        if result.unneeded:
            unneeded = (UNNEEDED, (subject.name, law.name))
            request.node.user_properties.append(unneeded)
        _tell(result)

    def _subject(self, request: pytest.FixtureRequest) -> Subject:
        """Return the strategy, loaded by the class's first test."""
        stash: pytest.Stash = request.node.getparent(pytest.Class).stash
        if _SUBJECT not in stash:
            stash[_SUBJECT] = self._given(request).check()
        return stash[_SUBJECT]

    def _grounds(self, request: pytest.FixtureRequest) -> Sequence[Ground]:
        """Return where disks are made, until other tests than the class's run."""
        node: pytest.Class = request.node.getparent(pytest.Class)
        if _GROUNDS not in node.stash:
            stack = ExitStack()
            stack.callback(node.stash.__delitem__, _GROUNDS)
            node.stash[_GROUNDS] = stack.enter_context(
                entrance.grounds_of(self._given(request))
            )
            node.addfinalizer(stack.close)
        return node.stash[_GROUNDS]

    def _given(self, request: pytest.FixtureRequest) -> entrance.Given:
        """Return what the class says."""
        return entrance.Given(
            strategy=self.strategy,
            directories=self.directories,
            filesystems=self.filesystems,
            option_sets=self.option_sets,
            environment=self._surroundings,
            waived=self.waived,
        )

    @contextmanager
    def _surroundings(self, directory: Path) -> Iterator[None]:
        with variables(self.environment), self.set_up(directory):
            yield


def _tell(result: Result) -> None:
    """Tell pytest what became of a law."""
    told = "\n".join((result.law.says, *result.reasons))
    if result.outcome is Outcome.BROKEN:
        pytest.fail(told, pytrace=False)
    if result.outcome is Outcome.WAIVED:
        pytest.xfail(told)
    if result.outcome is Outcome.NOT_APPLICABLE:
        pytest.skip(told)
