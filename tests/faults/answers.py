"""What a command may answer to a fault: its exit status, its error, its report."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

from tests.faults.calls import Action, Fault, Whose
from tests.faults.tracing import Ended

DONE, REFUSED, NO_SPACE, FAILED, INTERRUPTED = 0, 2, 3, 5, 130
# The disk is there, and what failed came after it.
PUBLISHED = frozenset({6})
ANSWERED = {0, 1}  # 1: a disk has drifted
# What an answer says of what could not be read, beside the error itself.
NOT_READ = ("unverifiable", "not readable", "damaged", "unreadable")
# A probe's trial that fails says that the storage can't, and a strategy says why.
NOT_ABLE = (".capabilities.", ".error: None became")
# An error that no fallback hides, and that is never a refusal.
STATUS = {
    errno.ENOSPC: {NO_SPACE},
    errno.EDQUOT: {NO_SPACE},
    errno.EIO: {FAILED},
    errno.EROFS: {REFUSED, FAILED},
    errno.EACCES: {REFUSED, FAILED},
    errno.ENOMEM: {REFUSED, FAILED},
    errno.ENOLCK: {REFUSED, FAILED},
    errno.EINTR: set(),
}
# What differs between two runs that are alike.
VOLATILE = {
    *("elapsed", "free", "used", "available", "left", "overcommit_ratio", "outlook"),
    *("actual_size", "extents"),  # the filesystem's choice
}
# A prepared disk is named by the dates of its base image, which is a copy each time.
PREPARED = re.compile(r"[0-9a-f]{64}\.prepared\.")


def wrong_output(ended: Ended, fault: Fault, *, reference: Ended) -> Iterator[str]:
    """The answer is the one without the fault, or says what could not be read."""
    differs = difference(document(reference), document(ended))
    words = (*NOT_READ, *NOT_ABLE, os.strerror(fault.value)) if fault.value else ()
    if differs and not any(word in differs for word in words):
        yield f"another answer, as if nothing had failed: {differs}"


def wrong_status(ended: Ended, fault: Fault) -> Iterator[str]:
    """Yield what is wrong with the exit status, for the fault."""
    assert ended.injected
    if fault.action is Action.SIGNAL:
        expected = {INTERRUPTED} if fault.value == signal.SIGINT else {None}
    elif fault.action is Action.SIGNAL_CALLER:
        expected = {FAILED}
    else:
        expected = {*STATUS[fault.value], *PUBLISHED} if fault.value else set()
        if ended.injected.whose is Whose.PROGRAM and FAILED in expected:
            expected |= {REFUSED}  # the image, as far as qemu-img can say
    if ended.status not in expected:
        yield f"exit status {ended.status}: {ended.stderr.strip()}"


def wrong_words(ended: Ended, fault: Fault) -> Iterator[str]:
    """Yield what is wrong with the error: it is one line, and names a path."""
    lines = ended.stderr.splitlines()
    if len(lines) != 1:
        yield f"{len(lines)} lines of errors: {ended.stderr.strip()}"
    elif fault.action is not Action.SIGNAL and "/place" not in lines[0]:
        yield f"no path: {lines[0]}"


def document(ended: Ended) -> Any:
    """Return what the command printed, without what differs from run to run."""
    printed = PREPARED.sub("prepared.", ended.stdout)
    return without(json.loads(printed), VOLATILE)


def without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {k: without(v, names) for k, v in value.items() if k not in names}
    if isinstance(value, list):
        return [without(item, names) for item in value]
    return value


def difference(then: Any, now: Any, *, at: str = "") -> str:
    """Return the first places where two documents differ."""
    if isinstance(then, list) and isinstance(now, list):
        then, now = (dict(enumerate(items)) for items in (then, now))
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted(then.keys() | now.keys())
        parts = (difference(then.get(k), now.get(k), at=f"{at}.{k}") for k in keys)
        return ", ".join(part for part in parts if part)
    return "" if then == now else f"{at}: {then!r} became {now!r}"
