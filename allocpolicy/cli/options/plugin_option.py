"""``--plugin FILE``: strategies in a file, for a first try without packaging."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.cli.streams import standard_output


def add(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument_group("plugins").add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="also have the strategies in this Python file, to try them; may be"
        " repeated; as root only if nobody else can change the file",
    )


@contextlib.contextmanager
def registered(*arguments: argparse.Namespace) -> Iterator[None]:
    """Have the strategies of the files that the arguments name while the body runs.

    :raises Error: when a file can't be used.
    """
    paths = [path for one in arguments for path in one.plugin]
    if not paths:
        yield
        return
    from allocpolicy.registry import plugin_file

    with contextlib.ExitStack() as stack:
        with standard_output.reserved():
            stack.enter_context(plugin_file.registered(paths))
        yield
