"""Ansible itself, where it is installed: `tox -e ansible`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

_FOUND = importlib.util.find_spec("ansible")
# The checkout's own directory has no file that it would be imported from.
INSTALLED = _FOUND is not None and _FOUND.origin is not None
COLLECTION = Path(__file__).parents[2] / "ansible"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the directory to the environment of tox that has Ansible."""
    return None if INSTALLED else True


def program(name: str) -> str:
    """Return the path of one of Ansible's programs."""
    return str(Path(sys.executable).with_name(name))


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory where the collection is installed, built as for a release."""
    place = tmp_path_factory.mktemp("collections")
    galaxy = (program("ansible-galaxy"), "collection")
    for command in (
        ("build", str(COLLECTION), "--output-path", str(place)),
        ("install", f"{place}/allocpolicy-storage-0.1.0.tar.gz", "-p", str(place)),
    ):
        subprocess.run((*galaxy, *command), check=True, capture_output=True)
    return place
