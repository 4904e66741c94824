"""Running the laws on a strategy: one result for each law, whoever asks.

An executed law is tried in many places, and its results are put together: it is broken
if it is broken anywhere, and holds if it holds somewhere and is broken nowhere.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from allocpolicy import Error
from allocpolicy.log import telling
from allocpolicy.record import dataclass, replace
from allocpolicy.testing.ground import Ground
from allocpolicy.testing.law import Broken, ExecutedLaw, Law, NotApplicable, PureLaw
from allocpolicy.testing.laws import laws
from allocpolicy.testing.outcome import Outcome, counts
from allocpolicy.testing.process import restored
from allocpolicy.testing.subject import Place, Subject
from allocpolicy.wording import bounded, raised

UNNEEDED = "it is waived, and not broken here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A law's outcome; ``reasons`` say why it isn't held.

    ``places`` are those of the outcome, if the law is about disks that are made.
    ``unneeded``: it is waived, and not broken where it was tried.
    """

    law: Law
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    unneeded: bool = False

    def __str__(self) -> str:
        reasons = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{self.outcome}: {self.law.name}{reasons}"


def run(
    subject: Subject, *, grounds: Sequence[Ground], tried: Iterable[Law] | None = None
) -> Iterator[Result]:
    """Try laws on a strategy, one after another; yield each one's result.

    :param grounds: where disks are made; `ground.grounds` makes them.
    :param tried: the laws; None: all.
    """
    for law in laws() if tried is None else tried:
        yield result_of(law, subject, grounds=grounds)


def result_of(law: Law, subject: Subject, *, grounds: Sequence[Ground]) -> Result:
    """Try one law on a strategy, everywhere; return what became of it."""
    if isinstance(law, PureLaw):
        with tempfile.TemporaryDirectory() as directory:
            found = [_tried_purely(law, subject, directory=Path(directory))]
    else:
        found = list(_tried(law, subject, grounds=grounds))
    return _waived(_together(law, found), subject)


def summary(results: Iterable[Result]) -> str:
    """Return ``19 held, 2 waived, 3 not applicable``; the broken ones come first."""
    return counts(Counter(str(result.outcome) for result in results))


def _tried(
    law: ExecutedLaw, subject: Subject, *, grounds: Sequence[Ground]
) -> Iterator[Result]:
    """Yield the result in each place, or only the first where it is enough to hold."""
    for ground in grounds:
        for place in filter(law.where, ground.places(subject)):
            result = _tried_in(law, place)
            if law.somewhere and result.outcome is Outcome.HELD:
                yield result
                return
            yield result


def _tried_purely(law: PureLaw, subject: Subject, *, directory: Path) -> Result:
    try:
        with restored(), subject.environment(directory):
            law.check(subject)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (its code may raise any)
        return _result(law, error)
    return Result(law=law, outcome=Outcome.HELD)


def _tried_in(law: ExecutedLaw, place: Place) -> Result:
    with tempfile.TemporaryDirectory(prefix="law-", dir=place.directory) as own:
        here = place.moved_to(Path(own))
        try:
            with (
                telling.untold(),  # its disks are nobody's, and most failures are meant
                restored(),
                place.subject.environment(here.directory),
            ):
                law.check(here)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (its code may raise any)
            result = _result(law, error)
            reasons = tuple(_placeless(one, own=own) for one in result.reasons)
            return replace(result, reasons=reasons, places=(str(place),))
    return Result(law=law, outcome=Outcome.HELD, places=(str(place),))


def _placeless(reason: str, *, own: str) -> str:
    """Return a reason without the law's own directory, which is another each time.

    A reason that was cut off may end within its name.
    """
    outside = str(Path(own).parent)
    return reason.replace(own, "DIR").replace(outside, "DIR")


def _result(law: Law, error: BaseException) -> Result:
    if isinstance(error, NotApplicable):
        reasons = (bounded(str(error)),)
        return Result(law=law, outcome=Outcome.NOT_APPLICABLE, reasons=reasons)
    ours = isinstance(error, Broken | Error)
    said = bounded(str(error)) if ours else raised(error)
    return Result(law=law, outcome=Outcome.BROKEN, reasons=(said,))


def _together(law: Law, found: Sequence[Result]) -> Result:
    """Return one result of a law's results in all places."""
    worst = [Outcome.BROKEN, Outcome.HELD, Outcome.NOT_APPLICABLE]
    if isinstance(law, ExecutedLaw) and law.somewhere:
        worst = [Outcome.HELD, Outcome.BROKEN, Outcome.NOT_APPLICABLE]
    for outcome in worst:
        same = [result for result in found if result.outcome is outcome]
        if same:
            places = tuple(itertools.chain.from_iterable(one.places for one in same))
            return Result(
                law=law, outcome=outcome, reasons=_grouped(same), places=places
            )
    return Result(
        law=law, outcome=Outcome.NOT_APPLICABLE, reasons=("no such place was given",)
    )


def _grouped(results: Iterable[Result]) -> tuple[str, ...]:
    """Return each reason once, with the first of its places."""
    places: dict[str, list[str]] = {}
    for result in results:
        for reason in result.reasons:
            places.setdefault(reason, []).extend(result.places)
    return tuple(
        f"{reason} [{_first(where)}]" if where else reason
        for reason, where in places.items()
    )


def _first(places: Sequence[str]) -> str:
    others = len(places) - 1
    more = f", and {others} more place{'s' if others > 1 else ''}" if others else ""
    return f"{places[0]}{more}"


def _waived(result: Result, subject: Subject) -> Result:
    reason = subject.waived.get(result.law.name)
    if reason is None:
        return result
    if result.outcome is not Outcome.BROKEN:
        return replace(result, reasons=(*result.reasons, UNNEEDED), unneeded=True)
    return replace(result, outcome=Outcome.WAIVED, reasons=(reason, *result.reasons))
