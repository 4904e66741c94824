"""Laws about the lock that a strategy names."""

from __future__ import annotations

from allocpolicy.registry import call, installed
from allocpolicy.testing import answers, watch
from allocpolicy.testing.law import pure, require
from allocpolicy.testing.subject import Subject

_EVERY = 19  # of the cases: all kinds of requests are among them


@pure(
    "locks-are-named-by-the-request",
    "Whoever asks for the same takes the same lock; naming it does nothing.",
)
def locks_are_named_by_the_request(subject: Subject) -> None:
    other = installed.load(subject.name)
    for answer in answers.of(subject)[::_EVERY]:
        case = answer.case
        with watch.io() as seen:
            first, second = (
                call.exclusive(loaded, request=case.request, options=case.options)
                for loaded in (subject.loaded, other)
            )
        require(first == second, f"its lock is {first!r}, then {second!r} ({case})")
        require(not seen, f"naming its lock, it does {seen[:1]} ({case})")
