"""What is logged, as Python's logging has it, and where it is written."""

from __future__ import annotations

import argparse
import json
import logging
import sys

from allocpolicy.log import telling

# Libraries that tell how they work, and what they miss, as a matter of course.
_LIBRARIES = ("asyncio", "cliff", "oslo_config", "oslo_utils", "stevedore")
_OURS = "allocpolicy"
_IN_FILE = "[%(asctime)s] %(levelname)-8s %(name)s %(message)s"


def configure(options: argparse.Namespace, *, normal: int) -> str:
    """Log to stderr, and to a file if one is asked for; return why it can't be.

    allocpolicy reports each error once, in one line, and not by logging.

    :param normal: the verbosity that shows allocpolicy's own words, no library's.
    """
    logging.raiseExceptions = options.debug  # a full disk of a log is no error
    handlers: list[logging.Handler] = []
    why = ""
    try:
        if options.log_json:
            write_json(_json_handler(options.log_file))
        elif options.log_file:
            handlers.append(_file_handler(options.log_file))
    except OSError as error:
        why = f"--log-file {options.log_file}: {error.strerror}"
    verbosity = options.verbose_level
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(_level(verbosity, normal=normal))
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    for one in (*handlers, console):
        if not options.debug:
            hide_libraries(one, verbose=verbosity > normal or one is not console)
        root.addHandler(one)
    return why


def _level(verbosity: int, *, normal: int) -> int:
    if verbosity > normal:
        return logging.DEBUG
    return logging.INFO if verbosity == normal else logging.WARNING


def _json_handler(file: str | None) -> logging.Handler:
    return logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)


def _file_handler(file: str) -> logging.Handler:
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter(_IN_FILE))
    return handler


def write_json(stream: logging.Handler) -> None:
    """Write changes to a handler, as JSON; nobody else is told of them."""
    logger = logging.getLogger(telling.LOGGER)
    stream.setFormatter(_Json())
    logger.addHandler(stream)
    logger.propagate = False


def hide_libraries(handler: logging.Handler, *, verbose: bool) -> None:
    """Let a handler have allocpolicy's own words, and the warnings of plugins.

    :param verbose: also of changes that failed, which the command's error tells.
    """

    def is_shown(record: logging.LogRecord) -> bool:
        name = record.name.partition(".")[0]
        if name == _OURS:
            return verbose or record.name != telling.LOGGER
        return name not in _LIBRARIES and record.levelno >= logging.WARNING

    handler.addFilter(is_shown)


class _Json(logging.Formatter):
    """A change's record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(vars(record)["change"])
