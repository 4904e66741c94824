"""Strategies in a file of Python, for a first try: as if they were installed.

As root the file must be one that nobody else can have made or changed. It is executed
under a module's name of its own, and nothing is written beside it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from allocpolicy.contract.strategy import Strategy
from allocpolicy.errors import InvalidRequest, StrategyFailed
from allocpolicy.registry import installed
from allocpolicy.registry.blame import blaming
from allocpolicy.registry.entry_points import Found
from allocpolicy.storage import trusted_file
from allocpolicy.storage.way import Distrusted

VERSION = "file"

_REMEDY = (
    "as root, use a copy that only root can change, in a directory such as /root, or"
    " install the plugin"
)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@contextlib.contextmanager
def registered(paths: Sequence[Path]) -> Iterator[None]:
    """Have the strategies in these files among the installed ones while the body runs.

    A name is the class attribute ``name``, or the class's name: ``MyQuota`` is
    ``my-quota``.

    :raises InvalidRequest: when a file can't be read, or others could change it.
    :raises StrategyFailed: when its code raises, or has no strategy.
    """
    with contextlib.ExitStack() as stack:
        for path in paths:
            module = stack.enter_context(_executed(path))
            stack.enter_context(installed.added(_strategies(module, path=path)))
        yield


@contextlib.contextmanager
def _executed(path: Path) -> Iterator[ModuleType]:
    """Yield the file's module, which is in `sys.modules` while the body runs."""
    source = _source(path)
    module = ModuleType(_free_name(path))
    module.__file__ = os.path.abspath(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look for it there
    try:
        with blaming(_file(path)):
            code = compile(source, module.__file__, "exec", dont_inherit=True)
            exec(code, vars(module))  # noqa: S102  (what the user asked for)
        yield module
    finally:
        sys.modules.pop(module.__name__, None)


def _source(path: Path) -> bytes:
    """Return what is in the file; as root only if nobody else can change it."""
    try:
        with (
            trusted_file.opened(path, trusted=os.geteuid() == 0) as fd,
            open(fd, "rb", closefd=False) as file,
        ):
            return file.read()
    except Distrusted as error:
        at, problem = error.args
        raise InvalidRequest(f"plugin {path}: {at}: {problem}; {_REMEDY}") from error
    except OSError as error:
        raise InvalidRequest(f"plugin {path}: {error.strerror}") from error


def _free_name(path: Path) -> str:
    """Return a module's name like the file's that no other module has."""
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    name = name if name.isidentifier() else f"_{name}"
    while name in sys.modules or importlib.util.find_spec(name) is not None:
        name += "_"
    return name


def _strategies(module: ModuleType, *, path: Path) -> tuple[Found, ...]:
    """Return the strategies that the file defines itself.

    An abstract class that another one in it derives from is no strategy.
    """
    own = dict.fromkeys(
        one
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, Strategy)
        and one.__module__ == module.__name__
    )
    found = [
        one
        for one in own
        if not inspect.isabstract(one)
        or not any(issubclass(other, one) for other in own if other is not one)
    ]
    if not found:
        reason = "it defines no subclass of allocpolicy.Strategy"
        raise StrategyFailed(path.stem, str(_file(path)), "", reason)
    return tuple(
        Found(
            name=str(getattr(one, "name", _WORD.sub("-", one.__name__).lower())),
            target=f"{module.__name__}:{one.__qualname__}",
            distribution=path.name,
            version=VERSION,
        )
        for one in found
    )


def _file(path: Path) -> Found:
    """Return whom to blame before any strategy is known."""
    return Found(
        name=path.stem, target=str(path), distribution=path.name, version=VERSION
    )
