"""What is said of a change: to what, from what to what, by whom, and how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from allocpolicy.log.author import Author
from allocpolicy.record import asdict, dataclass
from allocpolicy.wording import amount, one_line, printable

State = Mapping[str, object]  #: what something is, by name: plain data

# Characters in a line, so that who it was is in every line; the record has all.
_LONGEST_PATH = 200
_LONGEST_SAID = 200  # of a reason, or an error
_LONGEST_COMMAND = 150
_LONGEST_STATE = 150  # of one that is told by its names; a disk's is short
_POLICY = ("options", "requested", "labels")  # of a state, not in its words


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A change that was made, or that had begun when it failed.

    It is one of a disk, of a file of the host's, or of a domain; of a disk as its
    domain starts, it is one of both.
    """

    operation: str  #: what was done: ``provision``, ``stamp set``, ``cache prune``
    disk: Path | None = None  #: the disk that was changed
    domain: str | None = None  #: the UUID of the domain that it was done to, or for
    file: Path | None = None  #: what else was changed: a hook, an image in the cache
    strategy: str | None = None  #: the strategy that the disk has, or was to have
    mode: str | None = None  #: how a disk was changed: a report's mode
    before: State | None = None  #: what it was; None: it wasn't there
    after: State | None = None  #: what it is; None: it is gone, or that isn't known
    reason: str = ""  #: why it was done that way: a report's reason, in one line
    error: str | None = None  #: why it failed, in one line; None: it didn't
    seconds: float  #: that it took in this process


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An entry as it is told: also when, by whom, and in which process."""

    entry: Entry
    author: Author  #: who did it
    command: str  #: the command line, or the program that called the Python API
    pid: int  #: of the process
    at: float  #: seconds since 1970

    @property
    def line(self) -> str:
        """Return it in one line, for people."""
        entry = self.entry
        domain = f"domain {entry.domain}" if entry.domain else ""
        subject = " ".join(filter(None, (entry.operation, domain, _place(entry))))
        if entry.error is None:
            said = f"{subject}: {_became(entry.before, entry.after)}"
            said += f" ({_cut(entry.reason)})" if entry.reason else ""
        else:
            had = _words(entry.before)
            said = f"{subject} failed: {_cut(entry.error)}; it was {had}"
        command = _cut(printable(self.command), to=_LONGEST_COMMAND)
        who = printable(self.author.name)
        return one_line(f"{said}; {entry.seconds:.3g} s; by {who}: {command}")

    def as_document(self) -> dict[str, object]:
        """Return the object that ``--log-json`` writes: schemas/change.json."""
        seconds, fraction = divmod(self.at, 1)
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        entry = self.entry
        return {
            "time": f"{at}.{int(fraction * 1000):03}Z",
            "operation": entry.operation,
            "outcome": self.outcome,
            "disk": _text(entry.disk),
            "domain": entry.domain,
            "file": _text(entry.file),
            "strategy": entry.strategy,
            "mode": entry.mode,
            "before": None if entry.before is None else dict(entry.before),
            "after": None if entry.after is None else dict(entry.after),
            "reason": entry.reason or None,
            "error": entry.error,
            "seconds": round(entry.seconds, 6),
            "user": self.author.name,
            **asdict(self.author),
            "command": self.command,
            "pid": self.pid,
        }

    @property
    def outcome(self) -> str:
        """Return how it ended."""
        return "done" if self.entry.error is None else "failed"


def _place(entry: Entry) -> str:
    """Return the path of what was changed; the end of a long one says the most."""
    place = printable(_text(entry.disk or entry.file) or "")
    return place if len(place) <= _LONGEST_PATH else f"…{place[-_LONGEST_PATH:]}"


def _cut(text: str, *, to: int = _LONGEST_SAID) -> str:
    return text if len(text) <= to else f"{text[:to]}…"


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)


def _became(before: State | None, after: State | None) -> str:
    was, now = _words(before), _words(after)
    if was == now and before is not None and after is not None:
        is_stamped = any(before.get(name) != after.get(name) for name in _POLICY)
        now = f"the same{', another stamp' if is_stamped else ', in round figures'}"
    return f"{was} -> {now}"


def _words(state: State | None) -> str:
    """Return a state in a few words: a disk's policy first, sizes rounded."""
    if state is None:
        return "nothing"
    if "strategy" in state:
        return ", ".join((str(state["strategy"] or "no policy"), *_sizes(state)))
    if "virtual_size" in state:
        return ", ".join(_sizes(state))
    named = ", ".join(f"{name}={value}" for name, value in state.items())
    return _cut(named, to=_LONGEST_STATE) or "nothing"


def _sizes(state: State) -> Iterator[str]:
    """Yield the sizes that the state has."""
    if "virtual_size" in state:
        yield f"{amount(int(str(state['virtual_size'])))} {state['format']}"
        yield f"{amount(int(str(state['actual_size'])))} taken"
