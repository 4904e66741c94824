"""Laws about the process and the files around a strategy's code."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

from allocpolicy import Error
from allocpolicy.record import replace
from allocpolicy.registry import call
from allocpolicy.testing import answers, process
from allocpolicy.testing.cases import Case
from allocpolicy.testing.law import pure, require
from allocpolicy.testing.records import observation
from allocpolicy.testing.subject import Subject

_EVERY = 97  # of the cases: a few of each kind


@pure("observe-changes-nothing", "Observing leaves the directory and its files alone.")
def observe_changes_nothing(subject: Subject) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "of-somebody").write_bytes(b"else" * 2048)
        (directory / "below").mkdir()
        before = _tree(directory)
        for case in _some(subject):
            _observe(subject, case, directory=directory)
            require(_tree(directory) == before, f"it changes files ({case})")


@pure(
    "hooks-leave-the-process-alone",
    "No hook prints, or changes directory, umask, environment, signals or descriptors.",
)
def hooks_leave_the_process_alone(subject: Subject) -> None:
    for case in _some(subject):
        with process.watched() as changed:
            _ask_all(subject, case)
        require(not changed, f"it changes {', '.join(changed)} ({case})")


def _some(subject: Subject) -> Iterator[Case]:
    return (answer.case for answer in answers.of(subject)[::_EVERY])


def _observe(subject: Subject, case: Case, *, directory: Path) -> None:
    request = replace(case.request, destination=directory / "disk")
    host = replace(case.facts.host, directory=directory)
    try:
        seen = call.observe(
            subject.loaded, request=request, options=case.options, host=host
        )
    except Error:
        return
    kept = pickle.loads(pickle.dumps(seen))  # noqa: S301  (our own)
    require(kept == seen, f"{seen} is {kept} when it was pickled")


def _ask_all(subject: Subject, case: Case) -> None:
    """Ask every hook; other laws are about the answers."""
    disk = case.current or observation()
    for ask in (
        lambda: call.exclusive(
            subject.loaded, request=case.request, options=case.options
        ),
        lambda: answers.observed(subject.loaded, case),
        lambda: answers.ask(subject.loaded, case),
        lambda: call.verify(subject.loaded, options=case.options, observation=disk),
        lambda: call.wanted_attachment(
            subject.loaded, options=case.options, observation=disk
        ),
        lambda: call.migrate(subject.loaded, options=case.options, version=None),
    ):
        try:
            ask()
        except Error:
            continue


def _tree(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return what tells that something in a directory was changed."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        state = os.stat(path)
        found[str(path)] = (
            state.st_ino,
            state.st_mode,
            state.st_size,
            state.st_blocks,
            state.st_mtime_ns,
            state.st_ctime_ns,
        )
    return found
