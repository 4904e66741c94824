"""One line in syslog for each thing that happens, and one on standard error."""

from __future__ import annotations

from allocpolicy.log import datagram
from allocpolicy.wording import printable

ERROR, WARNING, INFO = datagram.ERROR, datagram.WARNING, datagram.INFO
LONGEST = 300  #: characters of the line on standard error, as libvirt shows it
_LONGEST_PATH = 120  # characters of a path in a line that is too long
_END = 100  # characters at the end of a line that is too long
_LONGEST_TRACEBACK = 4000


def tell(text: str, *, level: int = INFO) -> None:
    """Write a line to the journal or syslog; where there is none, nobody reads it."""
    datagram.send(printable(text), level=level)


def tell_traceback(error: BaseException) -> None:
    """Write where an error was raised: the end of it if it is long."""
    import traceback

    text = " ".join("".join(traceback.format_exception(error)).split())
    text = text[-_LONGEST_TRACEBACK:]
    for start in range(0, len(text), datagram.LONGEST):
        tell(text[start : start + datagram.LONGEST], level=ERROR)


def line(*texts: str, path: str) -> str:
    """Return the line for standard error: the first text that isn't too long.

    :param texts: each shorter than the one before; the last is cut if need be.
    :param path: one in the texts, of which the end says the most.
    """
    said, shown = "", printable(path)
    for text in texts:
        said = printable(f"{datagram.PROGRAM}: {text}")
        if len(said) > LONGEST and len(shown) > _LONGEST_PATH:
            said = said.replace(shown, f"…{shown[-_LONGEST_PATH:]}")
        if len(said) <= LONGEST:
            return said
    # What failed is at the beginning, and what to do at the end.
    return f"{said[: LONGEST - _END - 3]} … {said[-_END:]}"
