"""Asking a strategy in another process, where strings have other hashes.

A plan that depends on the order of a set is another one there: in a dry run and in the
run that follows, for example.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from allocpolicy import Error, Plan
from allocpolicy.registry import installed
from allocpolicy.testing import answers
from allocpolicy.testing.cases import Case
from allocpolicy.testing.import_cost import failure, file_of
from allocpolicy.testing.law import Broken
from allocpolicy.testing.subject import Subject

_CODE = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from allocpolicy.testing import elsewhere
elsewhere.answer_all()
"""
_SEEDS = ("1", "2")
_TRIES = 2


def ask(subject: Subject, cases: Sequence[Case]) -> list[Plan | Error]:
    """Return what the strategy answers in a process with another hash seed.

    Another is asked if one ends without an answer, for reasons that `import_cost` has.

    :raises Broken: when that ends so as well, with its last line.
    """
    asked = (subject.name, file_of(subject.loaded.found), cases)
    question = pickle.dumps(sys.path) + pickle.dumps(asked)
    for _ in range(_TRIES):
        done = _asked(question)
        if not done.returncode:
            told: list[Plan | Error] = pickle.loads(done.stdout)  # noqa: S301  (our own)
            return told
    raise Broken(f"it can't be asked in another process: {failure(done)}")


def _asked(question: bytes) -> subprocess.CompletedProcess[bytes]:
    seed = next(one for one in _SEEDS if one != os.environ.get("PYTHONHASHSEED"))
    return subprocess.run(
        [sys.executable, "-c", _CODE],
        input=question,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=False,
    )


def answer_all() -> None:
    """Answer what is asked on standard input."""
    name, file, cases = pickle.load(sys.stdin.buffer)  # noqa: S301  (our own)
    with os.fdopen(os.dup(1), "wb") as output, contextlib.ExitStack() as stack:
        os.dup2(2, 1)  # what a strategy prints is no answer
        if file is not None:
            from allocpolicy.registry import plugin_file

            stack.enter_context(plugin_file.registered([Path(file)]))
        loaded = installed.load(name)
        pickle.dump([answers.answer(loaded, case) for case in cases], output)
