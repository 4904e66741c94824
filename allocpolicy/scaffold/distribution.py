"""Writing the distribution of a new strategy: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

from allocpolicy import __version__
from allocpolicy.errors import DestinationError
from allocpolicy.scaffold.names import Names
from allocpolicy.storage import failure

# What is written, and the template that it is made from.
_FILES = {
    "README.md": "README.md.in",
    "pyproject.toml": "pyproject.toml.in",
    "$module/__init__.py": "package.py.in",
    "$module/py.typed": None,
    "$module/strategy.py": "strategy.py.in",
    "tests/test_conformance.py": "test_conformance.py.in",
    "tests/test_plans.py": "test_plans.py.in",
}


def files(names: Names) -> Mapping[Path, str]:
    """Return the text of each file of a new strategy's distribution, by its path."""
    words = {
        "name": names.name,
        "distribution": names.distribution,
        "module": names.module,
        "class_name": names.class_name,
        "version": __version__,
    }
    return {
        Path(_filled(path, words)): _filled(_template(source), words)
        for path, source in _FILES.items()
    }


def _filled(text: str, words: Mapping[str, str]) -> str:
    return Template(text).substitute(words)


def write(names: Names, directory: Path) -> tuple[Path, ...]:
    """Write a new strategy's distribution; return the paths of its files.

    The directory appears with all of it, or stays as it was. Of several at once, one
    gets the directory.

    :raises DestinationError: when it is there and not empty, or can't be made.
    :raises NotEnoughSpace: on ENOSPC or EDQUOT.
    """
    place = Path(os.path.realpath(directory))
    try:
        _refuse(place, directory)
        with tempfile.TemporaryDirectory(
            prefix=f".{names.distribution}-", dir=place.parent
        ) as temporary:
            whole = Path(temporary, "whole")
            for path, text in files(names).items():
                _write(whole / path, text)
            # Takes the place of an empty directory, and of nothing else.
            os.rename(whole, place)  # noqa: TID251  (source files; no disk)
    except OSError as error:
        action = "write the new strategy"
        failure.refuse_failure(error, path=directory, action=action)
        raise DestinationError(directory, os.strerror(error.errno or 0)) from error
    return tuple(place / path for path in files(names))


def _refuse(place: Path, directory: Path) -> None:
    """Refuse what could not become the new directory, in words.

    :raises DestinationError: saying why.
    """
    if not place.parent.is_dir():
        raise DestinationError(directory, f"there is no directory {place.parent}")
    if os.path.lexists(place) and not place.is_dir():
        raise DestinationError(directory, "it exists, and is no directory")
    if place.is_dir() and any(place.iterdir()):
        raise DestinationError(directory, "it exists, and is not empty")
    # It is replaced: the shell would stay in what was removed.
    if place == Path.cwd():
        reason = "it is the current directory; say a new one's name"
        raise DestinationError(directory, reason)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _template(name: str | None) -> str:
    if name is None:
        return ""
    place = resources.files("allocpolicy.scaffold") / "template" / name
    return place.read_text(encoding="utf-8")
