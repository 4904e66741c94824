"""What a disk's policy would be today: its stamp's question, asked again.

A stamp records what its disk was asked for: the flavor, the role, and the extra specs
of the command line. The answer changes with the flavor, with the operator's options and
with a strategy's defaults. The stamp is the word of the disk's owner, who may ask for
what any extra spec may ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import Error
from allocpolicy.registry import recorded_options
from allocpolicy.resolve.selection import Origin, Selection, resolve
from allocpolicy.schema import Invalid

if TYPE_CHECKING:
    from allocpolicy.contract.policy import Policy
    from allocpolicy.images.stamp import Asked, Stamp
    from allocpolicy.resolve.flavors import Flavor


class Renewal:
    """Answers stamps' questions anew, each once.

    :param flavors: today's flavors by name; None: a flavor's answer is unknown.
    """

    def __init__(
        self, *, policy: Policy, flavors: Mapping[str, Flavor] | None = None
    ) -> None:
        self._policy, self._flavors = policy, flavors
        self._answers: dict[str, Selection | Error | None] = {}

    def selection(self, stamp: Stamp) -> Selection | None:
        """Return today's selection; None where the stamp's own is all that is known.

        So it is for stamps that record no question, and for flavors that are not given
        or are gone.

        :raises Error: when the question has no valid answer today.
        """
        answer = self._answer(stamp.asked) if stamp.asked is not None else None
        if isinstance(answer, Error):
            raise answer
        return answer

    def change(self, stamp: Stamp) -> str | None:
        """Return how today's policy differs from the stamp's, in words, or None."""
        try:
            today = self.selection(stamp)
        except Error as error:
            return f"what its policy is today can't be said: {error}"
        if today is None or _same(today, stamp.requested):
            return None
        said = _said(today, stamp.requested)
        return f"its policy has changed since: {said}; apply it again"

    def _answer(self, asked: Asked) -> Selection | Error | None:
        key = repr(asked)
        if key not in self._answers:
            try:
                self._answers[key] = self._resolved(asked)
            except Error as error:
                self._answers[key] = error
        return self._answers[key]

    def _resolved(self, asked: Asked) -> Selection | None:
        flavor, policy = None, self._policy
        if asked.flavor is not None and policy.flavor_override:
            flavor = (self._flavors or {}).get(asked.flavor)
            if flavor is None:
                return None
        return resolve(
            policy=policy,
            disk_role=asked.disk,
            flavor=flavor,
            overrides=asked.extra_specs if policy.flavor_override else {},
        )


def _same(today: Selection, requested: Choice) -> bool:
    """Return whether the stamp asks for the same; newer options have defaults."""
    if today.strategy != requested.strategy:
        return False
    if dict(today.options) == dict(requested.options):
        return True
    try:
        complete = recorded_options.of_today(requested, loaded=today.loaded)
    except Invalid:  # it has an option that is gone
        return False
    return dict(complete) == dict(today.options)


def _said(today: Selection, requested: Choice) -> str:
    """Return each difference, and what says so today."""
    if today.strategy != requested.strategy:
        difference = f"it is {today.strategy}, and was {requested.strategy}"
        return f"by {_by(today.origin)} {difference}"
    names = sorted({*today.options, *requested.options})
    changed = (
        f"{_source(today, name)}{today.strategy}.{name} is"
        f" {today.options.get(name, 'no option any more')},"
        f" and was {requested.options.get(name, 'no option')}"
        for name in names
        if today.options.get(name) != requested.options.get(name)
    )
    return "; ".join(changed)


def _source(today: Selection, option: str) -> str:
    origin = today.option_origins.get(option)
    return f"by {_by(origin)} " if origin is not None else ""


def _by(origin: Origin) -> str:
    return f"{origin.key} ({origin.source})"
