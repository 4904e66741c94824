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
from allocpolicy.testing.import_cost import file_of
from allocpolicy.testing.subject import Subject

_CODE = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from allocpolicy.testing import elsewhere
elsewhere.answer_all()
"""
_SEEDS = ("1", "2")


def ask(subject: Subject, cases: Sequence[Case]) -> list[Plan | Error]:
    """Return what the strategy answers in a process with another hash seed.

    :raises CalledProcessError: when the process ends otherwise.
    """
    seed = next(one for one in _SEEDS if one != os.environ.get("PYTHONHASHSEED"))
    asked = (subject.name, file_of(subject.loaded.found), cases)
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        input=pickle.dumps(sys.path) + pickle.dumps(asked),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=True,
    )
    told: list[Plan | Error] = pickle.loads(done.stdout)  # noqa: S301  (our own)
    return told


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
