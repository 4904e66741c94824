"""One line in syslog for each thing that happens, and one on standard error."""

from __future__ import annotations

import syslog

from allocpolicy.wording import printable

PROGRAM = "allocpolicy"
LONGEST = 300  #: characters of the line on standard error, as libvirt shows it
_LONGEST_PATH = 120  # characters of a path in a line that is too long
_END = 100  # characters at the end of a line that is too long
_LONGEST_TRACEBACK = 4000
_LONGEST_LOGGED = 900  # of a line; some syslog daemons cut those of 1 KiB


def tell(text: str, *, level: int = syslog.LOG_INFO) -> None:
    """Write a line to syslog; where there is none, nobody reads it."""
    syslog.openlog(PROGRAM, syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(level, printable(text)[:_LONGEST_LOGGED])


def tell_traceback(error: BaseException) -> None:
    """Write where an error was raised: the end of it if it is long."""
    import traceback

    text = " ".join("".join(traceback.format_exception(error)).split())
    text = text[-_LONGEST_TRACEBACK:]
    for start in range(0, len(text), _LONGEST_LOGGED):
        tell(text[start : start + _LONGEST_LOGGED], level=syslog.LOG_ERR)


def line(*texts: str, path: str) -> str:
    """Return the line for standard error: the first text that isn't too long.

    :param texts: each shorter than the one before; the last is cut if need be.
    :param path: one in the texts, of which the end says the most.
    """
    said, shown = "", printable(path)
    for text in texts:
        said = printable(f"{PROGRAM}: {text}")
        if len(said) > LONGEST and len(shown) > _LONGEST_PATH:
            said = said.replace(shown, f"…{shown[-_LONGEST_PATH:]}")
        if len(said) <= LONGEST:
            return said
    # What failed is at the beginning, and what to do at the end.
    return f"{said[: LONGEST - _END - 3]} … {said[-_END:]}"
