"""The sdist, the wheel that is built from it, and an environment that has the wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(command, capture_output=True, check=False, cwd=cwd, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def source_files() -> set[str]:
    """Give what git tracks, and what it would if asked to add everything."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    listed = run(*command, cwd=ROOT).splitlines()
    return {name for name in listed if (ROOT / name).exists()}


@pytest.fixture(scope="session")
def built(source_files: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with the sdist, and the wheel that was built from it."""
    copy = tmp_path_factory.mktemp("source")
    for name in source_files:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    output = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--outdir", output, copy, cwd=output)
    return output


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="session")
def clean_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the bin directory of an environment with nothing but the wheel."""
    environment = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=wheel.parent)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=wheel.parent)
    return python.parent


@pytest.fixture(scope="session")
def checkers(clean_bin: Path) -> Path:
    """Give the same, with the type checkers that whoever writes a plugin has."""
    wanted = ("mypy", "pyright[nodejs]>=1.1.400", "pytest", "ruff")
    run(clean_bin / "python", "-m", "pip", "install", "-q", *wanted, cwd=clean_bin)
    return clean_bin
