"""The watches see what they are for: a law that relies on one can be broken."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from allocpolicy.testing import process, watch


def test_files_that_are_opened_and_listed(tmp_path: Path) -> None:
    with watch.io() as seen:
        os.listdir(tmp_path)
        (tmp_path / "file").write_text("")
    assert len(seen) == 2
    (tmp_path / "file").read_text()
    assert len(seen) == 2


def test_an_import_is_not_its_importers_doing(tmp_path: Path) -> None:
    """Whoever is asked first pays for what was put off."""
    code = (
        "from allocpolicy.testing import watch\n"
        "with watch.io() as seen, watch.outside() as asked:\n"
        "    import plistlib\n"
        "assert not seen and not asked, (seen, asked)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    "ask",
    [
        time.time,
        random.random,
        os.getpid,
        lambda: os.environ.get("HOME"),
        lambda: datetime.now(tz=None),  # noqa: DTZ005
        lambda: os.stat("/"),
    ],
)
def test_clocks_chance_and_the_process(ask: Callable[[], object]) -> None:
    with watch.outside() as seen:
        ask()
    assert seen
    with watch.outside() as seen:
        Path("/a").parent.joinpath("b").as_posix()
        random.Random(3).getrandbits(8)
    assert not seen


def test_what_times_a_collection_of_garbage_is_nobodys_question() -> None:
    """Such callbacks run in whatever code the collector is due."""

    def timed(_phase: str, _info: object) -> None:
        time.perf_counter()

    gc.callbacks.append(timed)
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with watch.outside() as seen:
            kept = [[number] for number in range(100)]
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(timed)
    assert kept
    assert seen == []
    assert gc.isenabled()


def test_nothing_is_said_of_what_changes_nothing() -> None:
    with process.watched() as changed:
        os.getcwd()
    assert not changed


@pytest.mark.parametrize(
    ("change", "undo", "told"),
    [
        (lambda: os.chdir("/"), None, "the current directory"),
        (lambda: os.umask(0o017), None, "the umask"),
        (lambda: os.environ.update(X_LAW="1"), None, "the environment"),
        (lambda: os.open("/", os.O_RDONLY), os.close, "descriptors"),
        (lambda: sys.stdout.write("word"), None, "standard output"),
        (lambda: os.write(1, b"word"), None, "standard output"),
        (lambda: threading.Timer(60, print), None, "threads"),
    ],
)
def test_a_change_of_the_process_is_named(
    change: Callable[[], object], undo: Callable[[object], None] | None, told: str
) -> None:
    directory, umask, environment = os.getcwd(), os.umask(0o022), dict(os.environ)
    try:
        with process.watched() as changed:
            made = change()
            if isinstance(made, threading.Timer):
                made.start()
    finally:
        os.chdir(directory)
        os.umask(umask)
        os.environ.clear()
        os.environ.update(environment)
    if undo is not None:
        undo(made)
    if isinstance(made, threading.Timer):
        made.cancel()
        made.join()
    assert changed == [told]
