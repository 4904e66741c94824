"""One line in syslog for each thing that happens, and one on standard error."""

from __future__ import annotations

import syslog

from allocpolicy.wording import printable

PROGRAM = "allocpolicy"
LONGEST = 300  #: characters of the line on standard error, as libvirt shows it
_LONGEST_PATH = 120  # characters of a path in a line that is too long
_LONGEST_TRACEBACK = 4000
_LONGEST_LOGGED = 900  # of a line; some syslog daemons cut those of 1 KiB


def tell(text: str, *, serious: bool = False) -> None:
    """Write a line to syslog; where there is none, nobody reads it."""
    syslog.openlog(PROGRAM, syslog.LOG_PID, syslog.LOG_DAEMON)
    level = syslog.LOG_ERR if serious else syslog.LOG_INFO
    syslog.syslog(level, printable(text)[:_LONGEST_LOGGED])


def tell_traceback(error: BaseException) -> None:
    """Write where an error was raised: the end of it if it is long."""
    import traceback

    text = "".join(traceback.format_exception(error))
    for one in text[-_LONGEST_TRACEBACK:].splitlines():
        tell(one, serious=True)


def line(text: str, *, path: str = "") -> str:
    """Return the line for standard error, shortened where it says the least.

    :param path: one in the text, of which the end says the most.
    """
    said = printable(f"{PROGRAM}: {text}")
    shown = printable(path)
    if len(said) > LONGEST and len(shown) > _LONGEST_PATH:
        said = said.replace(shown, f"…{shown[-_LONGEST_PATH:]}")
    if len(said) <= LONGEST:
        return said
    # What failed is at the beginning, and what to do at the end.
    end = LONGEST // 3
    return f"{said[: LONGEST - end - 3]}… …"[: LONGEST - end] + said[-end:]
