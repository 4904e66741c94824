"""docs/how-to/strategies.md, typed as it stands: an author's first hour."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "strategies.md").read_text(encoding="utf-8")
FENCED = re.compile(
    r"^```(?P<language>\w+)(?: (?P<how>file|add)=(?P<file>\S+))?\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
MARK = "@@@"
# The environment that these would make is there: `checkers`.
NOT_RUN = ("python3 -m venv ", ". venv/bin/activate", "pip install 'allocpolicy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """What is typed, and the lines that the page shows of what it prints.

    With any shown it may fail: the page says how.
    """

    text: str
    shown: tuple[str, ...] = ()

    @property
    def as_script(self) -> str:
        return f"{{ {self.text}\n}} || true\n" if self.shown else f"{self.text}\n"


def typed() -> Iterator[Typed]:
    """Yield all that the page says to type, in its order."""
    for block in FENCED.finditer(PAGE):
        text, file = block["text"], block["file"]
        if block["language"] == "console":
            yield from of_console(text)
        elif block["language"] == "shell":
            lines = (one for one in text.splitlines() if not one.startswith(NOT_RUN))
            yield from (Typed(text=line) for line in lines)
        elif block["how"] == "file":
            yield Typed(text=f"cat >{file} <<'EOF'\n{text}EOF")
        elif block["how"] == "add":
            yield Typed(text=f"cat >>{file} <<'EOF'\n\n{text}EOF")
        else:
            yield Typed(text=f"python -c {shlex.quote(text)}")


def of_console(text: str) -> Iterator[Typed]:
    """Yield the commands of a block that shows what they print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield Typed(text=command, shown=tuple(shown))


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


@pytest.fixture
def desk() -> Iterator[Path]:
    """Give a directory that root may run Python files from, if root it is."""
    place = None if os.geteuid() else Path("~root").expanduser()
    with tempfile.TemporaryDirectory(prefix="guide-", dir=place) as name:
        yield Path(name)


def test_all_of_the_page_can_be_typed_in_order(
    desk: Path, checkers: Path, tmp_path: Path
) -> None:
    """Every command does what the page says, and prints what it shows."""
    steps = list(typed())
    assert len(steps) > 30
    printed = outputs(steps, desk=desk, bin=checkers, scratch=tmp_path)
    for step, output in zip(steps, printed, strict=True):
        for line in step.shown:
            for part in line.split("…"):
                assert squeezed(part) in squeezed(output), f"{step.text}\n{output}"


def outputs(steps: list[Typed], *, desk: Path, bin: Path, scratch: Path) -> list[str]:
    """Run everything in one shell, in an environment; return what each part prints."""
    marked = (f"echo\necho {MARK}\n{step.as_script}" for step in steps)
    done = subprocess.run(
        ["bash", "-c", "exec 2>&1\nset -euo pipefail\n" + "".join(marked)],
        capture_output=True,
        check=False,
        cwd=desk,
        env=variables(bin, scratch=scratch),
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout.split(f"\n{MARK}\n")[1:]


def variables(bin: Path, *, scratch: Path) -> dict[str, str]:
    locks = scratch / "locks"
    locks.mkdir(mode=0o700)
    tools = ("OS_ALLOCPOLICY", "PYTEST", "PYTHON", "XDG_CACHE_HOME")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(tools)}
    return kept | {
        "OS_ALLOCPOLICY__LOCK_PATH": str(locks),
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPYCACHEPREFIX": str(scratch / "compiled"),
        "VIRTUAL_ENV": str(bin.parent),
        "XDG_CACHE_HOME": str(scratch / "cache"),
    }
