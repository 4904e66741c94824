"""The process of the program: how it starts, is interrupted and ends."""

from __future__ import annotations

import gc
import os
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells say


def run() -> int:
    """Run the command of the command line; return its exit status."""
    # Imports make tens of thousands of objects that stay; looking through them again
    # and again for cyclic garbage took a tenth of a command's time.
    gc.set_threshold(50_000)
    # numpy's OpenBLAS would start a thread for each core, and we have no use for them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from allocpolicy.cli.main import main

        return main()
    except KeyboardInterrupt:
        return interrupted()
    finally:
        gc.freeze()  # or the interpreter looks through everything once more at its end


def interrupted() -> int:
    """Tell of an interrupt before or after a command's own work; return the status."""
    print("allocpolicy: interrupted", file=sys.stderr)
    return INTERRUPTED
