"""Laws about the answers of a strategy; no disk is made."""

from __future__ import annotations

from allocpolicy.testing.law import pure, require
from allocpolicy.testing.subject import Subject


@pure("summary-is-one-line", "the summary is a cell of `strategy list`")
def summary_is_one_line(subject: Subject) -> None:
    summary: object = subject.strategy.summary
    require(
        isinstance(summary, str) and summary.strip() and summary.isprintable(),
        f"the summary is {summary!r}",
    )
