"""Which labels a disk has: those that are given, its stamp's, and its flavor's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from allocpolicy.contract import labels as grammar
from allocpolicy.contract.read_only import ReadOnly
from allocpolicy.errors import InvalidRequest
from allocpolicy.record import replace
from allocpolicy.wording import bounded

if TYPE_CHECKING:
    from allocpolicy.images.stamp import Asked, Stamp


def parse(assignments: Iterable[str]) -> dict[str, str]:
    """Return the labels in the ``KEY=VALUE`` arguments of a command line.

    :raises InvalidRequest: for one without ``=``, and for one that is given twice.
    """
    labels: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise InvalidRequest(f"label {bounded(repr(assignment))}: write KEY=VALUE")
        if key in labels:
            raise InvalidRequest(f"label {bounded(repr(key))} is given twice")
        labels[key] = value
    return labels


def checked(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels, as plain data.

    :raises InvalidRequest: when a name or a value can't be one, or they are too many.
    """
    if (fault := grammar.fault(labels)) is not None:
        raise InvalidRequest(fault)
    return dict(labels)


def changed(stamp: Stamp | None, given: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a stamp, changed by the given ones; empty ones are removed.

    :raises InvalidRequest: when a name or a value can't be one, or they are too many.
    """
    before = stamp.asked.labels if stamp and stamp.asked else {}
    checked({key: value or "removed" for key, value in given.items()})
    return checked({key: value for key, value in {**before, **given}.items() if value})


def given(asked: Asked | None, labels: Mapping[str, str]) -> Asked | None:
    """Return what led to a policy, with these labels.

    :raises InvalidRequest: where a stamp doesn't record what led to it.
    """
    if asked is not None:
        return replace(asked, labels=labels)
    if labels:
        raise InvalidRequest(
            "its stamp is of an older version, and records no labels; choose its"
            " policy as well, for example with --strategy"
        )
    return None


def effective(asked: Asked | None) -> ReadOnly[str]:
    """Return the labels of a disk: the recorded ones, and its flavor's name.

    A flavor's name that can't be a label is none.
    """
    if asked is None:
        return ReadOnly()
    flavor = {grammar.FLAVOR: asked.flavor} if grammar.is_value(asked.flavor) else {}
    return ReadOnly({**flavor, **asked.labels})
