"""Which disks must exist and have their policy, read from a file.

The file is a list of paths, or an object of paths and strategies, in JSON (``.json``)
or YAML (``.yaml``, ``.yml``); any other file has a path on each line, and comments that
begin with ``#``. Relative paths start at the file's directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.errors import InvalidRequest
from allocpolicy.resolve import strict_file
from allocpolicy.schema import Invalid

_DATA = (".json", ".yaml", ".yml")


def read(path: Path) -> dict[Path, str | None]:
    """Return each expected disk and its strategy, None where any will do.

    :raises InvalidRequest: when the file can't be read, or is something else.
    """
    try:
        content = strict_file.read(path) if path.suffix in _DATA else _lines(path)
        named = _named(content)
    except Invalid as error:
        raise InvalidRequest(f"{path}: {' '.join(str(error).split())}") from error
    start = Path(os.path.abspath(path)).parent
    return {start / name: strategy for name, strategy in named.items()}


def _lines(path: Path) -> list[str]:
    lines = strict_file.text(path).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _named(content: object) -> dict[str, str | None]:
    named = dict.fromkeys(content) if isinstance(content, list) else content
    if not isinstance(named, dict) or not all(
        isinstance(name, str) and isinstance(strategy, str | None)
        for name, strategy in named.items()
    ):
        raise Invalid("expected a list of paths, or an object of paths and strategies")
    for name in named:
        if "\0" in name:
            raise Invalid(f"{name!r} is no path: it has a NUL")
    return named
