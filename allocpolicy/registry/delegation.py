"""Another strategy that does the work of the one that is asked, under its own options.

A strategy that adds something to another (a quota, a label) leaves the rest to it. What
the other returns is checked as if the framework had asked, and is blamed on it.
"""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy import arguments, schema
from allocpolicy.contract.facts import Facts, Host, Observation
from allocpolicy.contract.plan import Plan
from allocpolicy.contract.strategy import Attachment, Request, Verdict
from allocpolicy.errors import PlanError, StrategyNotFound
from allocpolicy.record import dataclass, field
from allocpolicy.registry import call, installed, option_values
from allocpolicy.registry.blame import refuse_cycle
from allocpolicy.registry.installed import Loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegate:
    """A strategy bound to its options; its hooks are those of `Strategy`.

    What its ``observe`` returns belongs into `Facts.observed` of the facts that its
    ``plan`` and ``amend`` get.
    """

    name: str  #: the strategy's name
    options: Mapping[str, object]  #: all of its options, defaults included
    _loaded: Loaded = field(repr=False, compare=False)

    def observe(self, *, request: Request, host: Host) -> Mapping[str, object]:
        """Return further facts that its plan needs."""
        return call.observe(
            self._entered, request=request, options=self.options, host=host
        )

    def plan(self, *, request: Request, facts: Facts) -> Plan:
        """Return how it makes a new disk, checked.

        :raises PlanError: when no storage could fulfil the request.
        :raises Unsupported: when this storage cannot.
        """
        return call.plan(
            self._entered, request=request, options=self.options, facts=facts
        )

    def amend(self, *, request: Request, current: Observation, facts: Facts) -> Plan:
        """Return how it brings an existing disk to its policy, checked.

        :raises PlanError: when it can't be done.
        :raises Unsupported: when this storage cannot.
        """
        return call.amend(
            self._entered,
            request=request,
            current=current,
            options=self.options,
            facts=facts,
        )

    def verify(self, *, observation: Observation) -> Verdict:
        """Return its judgement of a disk."""
        return call.verify(self._entered, options=self.options, observation=observation)

    def attach(self, *, observation: Observation) -> Attachment:
        """Return how a VM must attach the disk, as it wants it."""
        return call.wanted_attachment(
            self._entered, options=self.options, observation=observation
        )

    def exclusive(self, *, request: Request) -> str | None:
        """Return the name of the lock that it needs."""
        return call.exclusive(self._entered, request=request, options=self.options)

    @property
    def _entered(self) -> Loaded:
        refuse_cycle(self.name)
        return self._loaded


def delegate(name: str, options: Mapping[str, object] | None = None) -> Delegate:
    """Return another installed strategy, bound to options; others have defaults.

    Loading it imports its module, once. Its lock, if it has one, is not held for it:
    return its name from your own ``exclusive``.

    :raises PlanError: when it is not installed, or refuses the options.
    :raises InvalidRequest: when the name is no text, or the options no mapping.
    :raises StrategyFailed: when it can't be loaded, or delegates back.
    """
    refuse_cycle(arguments.text(name, "name"))
    if options is not None and not isinstance(options, Mapping):
        arguments.refuse(options, "options", "a mapping, such as a dict")
    try:
        loaded = installed.load(name)
        complete = option_values.complete(
            options or {}, options_schema=loaded.options_schema
        )
    except (StrategyNotFound, schema.Invalid) as error:
        reason = f"it delegates to strategy {name!r}: {error}"
        raise PlanError(reason) from error
    return Delegate(name=name, options=complete, _loaded=loaded)
