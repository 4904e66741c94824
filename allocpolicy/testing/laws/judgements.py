"""Laws about verdicts and attachments, which an audit asks of every disk there is."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator

from allocpolicy import Allocation, Attachment, Judgement, Observation, Verdict
from allocpolicy.record import replace
from allocpolicy.registry import call, installed
from allocpolicy.registry.installed import Loaded
from allocpolicy.testing import answers, cases, watch
from allocpolicy.testing.law import one_line, pure, require
from allocpolicy.testing.subject import Options, Subject
from allocpolicy.testing.unknown import unknown_member

_EVERY = 7  # of the disks for which it is asked slowly


@pure("verify-judges-every-disk", "It says in one line of any disk whether it meets.")
def verify_judges_every_disk(subject: Subject) -> None:
    for options, observation in _asked(subject):
        _verdict(subject.loaded, options, observation)
        given = answers.hook(
            subject.loaded, "verify", options=options, observation=observation
        )
        assert isinstance(given, Verdict)
        require(
            one_line(given.reason),
            f"the reason is {given.reason!r} ({cases.told(observation)})",
        )


@pure("attachments-are-words-of-qemu", "QEMU and libvirt take each attachment.")
def attachments_are_words_of_qemu(subject: Subject) -> None:
    for options, observation in _asked(subject):
        _attachment(subject.loaded, options, observation)


@pure("judgements-are-steady", "Two instances judge and attach any disk alike.")
def judgements_are_steady(subject: Subject) -> None:
    other = installed.load(subject.name)
    for options, observation in _asked(subject):
        for ask in (_verdict, _attachment):
            one = ask(subject.loaded, options, observation)
            two = ask(other, options, observation)
            require(one == two, f"{one}, then {two} ({cases.told(observation)})")
            kept = pickle.loads(pickle.dumps(one))  # noqa: S301  (our own)
            require(kept == one, f"{one} is {kept} when it was pickled")


@pure("judgements-do-no-io", "Verify and attach know the observation and no more.")
def judgements_do_no_io(subject: Subject) -> None:
    asked = list(_asked(subject))
    for options, observation in asked:
        with watch.io() as seen:
            _both(subject, options, observation)
        require(not seen, f"{seen[:1]} ({cases.told(observation)})")
    for options, observation in asked[::_EVERY]:
        with watch.outside() as seen:
            _both(subject, options, observation)
        require(not seen, f"they ask {seen[:1]} ({cases.told(observation)})")


@pure(
    "what-is-hidden-never-counts",
    "What can't be verified, or isn't known, meets only where a thin disk would.",
)
def what_is_hidden_never_counts(subject: Subject) -> None:
    hidden = (Allocation.UNVERIFIABLE, unknown_member(Allocation))
    for options, thin in _asked(subject):
        if thin.allocation is not Allocation.THIN:
            continue
        for allocation in hidden:
            other = replace(thin, allocation=allocation)
            judged = _verdict(subject.loaded, options, other).judgement
            if judged is Judgement.MEETS:
                shown = _verdict(subject.loaded, options, thin).judgement
                told = f"it meets where its allocation is {allocation}, not thin"
                require(shown is Judgement.MEETS, told)


def _asked(subject: Subject) -> Iterator[tuple[Options, Observation]]:
    return itertools.product(subject.option_sets, cases.observations())


def _both(subject: Subject, options: Options, observation: Observation) -> None:
    _verdict(subject.loaded, options, observation)
    _attachment(subject.loaded, options, observation)


def _verdict(loaded: Loaded, options: Options, observation: Observation) -> Verdict:
    return call.verify(loaded, options=options, observation=observation)


def _attachment(
    loaded: Loaded, options: Options, observation: Observation
) -> Attachment:
    return call.wanted_attachment(loaded, options=options, observation=observation)
