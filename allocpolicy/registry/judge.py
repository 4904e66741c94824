"""Judging existing disks: load each strategy once, check each set of options once.

A disk outlives what created it: its strategy may by now be gone, broken, or have other
options. The disk's verdict says so, and other disks are still judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from allocpolicy import schema
from allocpolicy.contract.facts import Observation
from allocpolicy.contract.policy import NOBODY_SAID, Machines
from allocpolicy.contract.strategy import Attachment, Choice, Judgement, Verdict
from allocpolicy.errors import Error
from allocpolicy.registry import call, installed, recorded_options
from allocpolicy.registry.installed import Loaded


class Judge:
    """Asks strategies for verdicts and attachments, and remembers what it loaded.

    :param refusal: returns why a strategy that a stamp names must not be loaded, or
        None; its owner can write any stamp.
    """

    def __init__(self, *, refusal: Callable[[str], str | None]) -> None:
        self._refusal = refusal
        self._loaded: dict[str, Loaded | str] = {}
        self._options: dict[tuple[str, ...], Mapping[str, object] | str] = {}

    def prepare(self, choice: Choice) -> None:
        """Load what the choice needs; done while workers run, it costs no time."""
        self._ready(choice)

    def verdict(self, choice: Choice, observation: Observation) -> Verdict:
        """Return whether the disk keeps what the choice promises.

        A missing backing file is drift, whatever the strategy: the guest can't even
        read the disk. One whose format isn't recorded is there, and is told. If one was
        not looked at, or it is unknown how the data file is allocated, the disk can't
        meet its policy. If the strategy is unavailable, the disk is unverifiable.
        """
        verdict, remark = self._verified(choice, observation)
        reason, meets = observation.broken_chain, verdict.judgement is Judgement.MEETS
        if reason and not observation.ends_unread:
            told = (reason, None if meets else verdict.reason, remark)
            return _said(Judgement.DRIFTED, *told)
        unseen = observation.unseen_chain or observation.unknown_data
        if unseen is not None and meets:
            return _said(Judgement.UNVERIFIABLE, unseen, remark)
        told = (verdict.reason, reason or unseen, remark)
        return _said(verdict.judgement, *told)

    def _verified(
        self, choice: Choice, observation: Observation
    ) -> tuple[Verdict, str | None]:
        """Return the strategy's own verdict, and a remark on the strategy."""
        ready = self._ready(choice)
        if isinstance(ready, str):
            return Verdict(judgement=Judgement.UNVERIFIABLE, reason=ready), None
        loaded, options = ready
        try:
            verdict = call.verify(loaded, options=options, observation=observation)
        except Error as error:
            return Verdict(judgement=Judgement.UNVERIFIABLE, reason=str(error)), None
        return verdict, _another_distribution(choice, loaded)

    def attachment(
        self,
        choice: Choice,
        observation: Observation,
        *,
        machines: Machines = NOBODY_SAID,
    ) -> Attachment | None:
        """Return how a VM must attach the disk; None if that can't be known."""
        answer = self.attached(choice, observation, machines=machines)
        return None if isinstance(answer, str) else answer

    def attached(
        self, choice: Choice, observation: Observation, *, machines: Machines
    ) -> Attachment | str:
        """Return how a VM must attach the disk, or why that can't be known."""
        ready = self._ready(choice)
        if isinstance(ready, str):
            return ready
        loaded, options = ready
        try:
            return call.attach(
                loaded, options=options, observation=observation, machines=machines
            )
        except Error as error:
            return str(error)

    def is_same(self, one: Choice, other: Choice) -> bool:
        """Return whether both ask for the same; newer options have defaults."""
        if one == other or one.strategy != other.strategy:
            return one == other
        first, second = self._ready(one), self._ready(other)
        if isinstance(first, str) or isinstance(second, str):
            return False
        return dict(first[1]) == dict(second[1])

    def _ready(self, choice: Choice) -> tuple[Loaded, Mapping[str, object]] | str:
        """Return the strategy and all its options, or why it is unavailable."""
        name = choice.strategy
        if name not in self._loaded:
            self._loaded[name] = self._refusal(name) or _load(name)
        loaded = self._loaded[name]
        if isinstance(loaded, str):
            return loaded
        writer = (str(choice.distribution), str(choice.version))
        key = (name, *writer, repr(sorted(choice.options.items())))
        if key not in self._options:
            self._options[key] = _complete(choice, loaded)
        options = self._options[key]
        return options if isinstance(options, str) else (loaded, options)


def _said(judgement: Judgement, *reasons: str | None) -> Verdict:
    """Return a verdict with every reason, each once; a strategy may have told one."""
    told: list[str] = []
    for one in filter(None, reasons):
        if not any(one in before for before in told):
            told.append(one)
    return Verdict(judgement=judgement, reason="; ".join(told))


def _another_distribution(choice: Choice, loaded: Loaded) -> str | None:
    """Return that the strategy is another distribution's than the disk's was, if so."""
    writer, found = choice.distribution, loaded.found
    if writer in (None, found.distribution):
        return None
    return f"its stamp is of {choice.strategy} of {writer}, this is {found}"


def _load(name: str) -> Loaded | str:
    try:
        return installed.load(name)
    except Error as error:
        return str(error)


def _complete(choice: Choice, loaded: Loaded) -> Mapping[str, object] | str:
    """Return the options as they are today, or what is wrong."""
    try:
        return recorded_options.of_today(choice, loaded=loaded)
    except Error as error:
        return str(error)
    except schema.Invalid as error:
        named = f"strategy {choice.strategy!r}"
        return f"its stamp's options are not valid for {named}: {error}"
