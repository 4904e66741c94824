"""A law: one thing that every strategy keeps to, and how to find out."""

from __future__ import annotations

from collections.abc import Callable

from allocpolicy.record import dataclass, field
from allocpolicy.testing.subject import Place, Subject


class Broken(AssertionError):
    """The strategy breaks the law: one line that says how."""


class NotApplicable(Exception):
    """The law is about something that the strategy declares not to do: ``(reason)``."""


def everywhere(place: Place) -> bool:
    """Return whether a law is tried in a place: in every one."""
    return True


def plainly(place: Place) -> bool:
    """Return whether a law that takes long is tried in a place: in few."""
    return place.is_plain


def at_its_edges(place: Place) -> bool:
    """Return whether a place differs from the plain one in one thing only."""
    return place.has_defaults or (place.base is None and place.is_typical)


@dataclass(frozen=True, slots=True, kw_only=True)
class PureLaw:
    """A law about what a strategy answers; no disk is made."""

    name: str
    says: str
    check: Callable[[Subject], None] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedLaw:
    """A law about disks that are really made, in each `Place` that ``where`` wants.

    ``somewhere``: it holds if it holds in one of them, the first that is found.
    """

    name: str
    says: str
    check: Callable[[Place], None] = field(repr=False)
    where: Callable[[Place], bool] = field(repr=False, default=everywhere)
    somewhere: bool = field(repr=False, default=False)


Law = PureLaw | ExecutedLaw


def pure(name: str, says: str) -> Callable[[Callable[[Subject], None]], PureLaw]:
    """Make a law of a function that raises `Broken` or `NotApplicable`.

    :param name: by which an author waives it, in lower case with dashes.
    :param says: what holds, in one line.
    """

    def law(check: Callable[[Subject], None]) -> PureLaw:
        return PureLaw(name=name, says=says, check=check)

    return law


def executed(
    name: str,
    says: str,
    *,
    where: Callable[[Place], bool] = everywhere,
    somewhere: bool = False,
) -> Callable[[Callable[[Place], None]], ExecutedLaw]:
    """Make a law of a function that is called once for each place.

    The place's directory is empty, the law's own, and removed afterwards.

    :param name: by which an author waives it, in lower case with dashes.
    :param says: what holds, in one line.
    :param where: in which places it is tried; what costs time is tried in few.
    :param somewhere: whether it is enough that it holds in one of these places.
    """

    def law(check: Callable[[Place], None]) -> ExecutedLaw:
        return ExecutedLaw(
            name=name, says=says, check=check, where=where, somewhere=somewhere
        )

    return law


def require(holds: object, otherwise: str) -> None:
    """Go on if something holds.

    :raises Broken: with ``otherwise``, which says in one line what is wrong.
    """
    if not holds:
        raise Broken(otherwise)


def one_line(text: object) -> bool:
    """Return whether it is a text of one line that can be printed."""
    return isinstance(text, str) and bool(text.strip()) and text.isprintable()


def changes_existing(subject: Subject) -> None:
    """Go on if the strategy changes existing disks.

    :raises NotApplicable: when it has no ``amend``.
    """
    if not subject.changes_existing:
        raise NotApplicable("it has no amend(): it does not change existing disks")
