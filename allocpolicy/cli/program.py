"""The process of the program: how it starts, is interrupted and ends."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys

from allocpolicy.cli import paths_alone
from allocpolicy.cli.streams import standard_error, standard_output
from allocpolicy.cli.streams.failure import (
    PROGRAM,
    incomplete,
    interrupted,
    unwritten,
)


def run() -> int:
    """Run the command of the command line, and end the process with its exit status.

    It is ended at once: to take modules and classes apart, object by object, takes the
    interpreter 9 ms. Return the status where something else waits for its own end.
    """
    status = served()
    if not _is_awaited():
        os._exit(status)
    return status


def served() -> int:
    """Run the command of the command line; return its exit status."""
    standard_output.begin()
    standard_error.begin()
    # Who ignores it, as a parent may, never learns that a program has failed.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Imports create tens of thousands of lasting objects; searching them repeatedly
    # for cyclic garbage took a tenth of a command's time.
    gc.set_threshold(200_000)
    # numpy's OpenBLAS would start a thread per core, and nothing here uses them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return _written(_ended())
    finally:
        standard_output.end()
        gc.freeze()  # or the interpreter searches everything once more when it exits


def _is_awaited() -> bool:
    """Return whether the interpreter's end does more than free memory.

    Exit handlers run then, of plugins and of logging, and threads are waited for;
    profilers and debuggers tell what they found.
    """
    threading = sys.modules.get("threading")
    threads = threading.enumerate() if threading else ()
    return bool(
        atexit._ncallbacks()  # noqa: SLF001  (nothing public says so)
        or sum(not one.daemon for one in threads) > 1
        or (sys.gettrace() or sys.getprofile())
        or (sys.flags.inspect or sys.flags.dev_mode)
    )


def _ended() -> int:
    """Run the command, or print its help; return the exit status."""
    try:
        paths_alone.begin()
        from allocpolicy.cli.main import main

        return main()
    except SystemExit as ended:  # of argparse
        if not isinstance(ended.code, int | None):
            raise
        return ended.code or 0
    except KeyboardInterrupt:
        return interrupted()
    except (
        ImportError
    ) as error:  # Python's own status, 1, is that of an audit's finding
        return incomplete(error)


def _written(status: int) -> int:
    """Return the exit status, or that what was printed couldn't be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # who reads it has read enough
        standard_output.drop(sys.stdout)
    except OSError as error:
        return unwritten(PROGRAM, error)
    return status
