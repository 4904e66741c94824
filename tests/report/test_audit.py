"""What an audit's rows come to: words, counts, and the status of the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocpolicy import Judgement, Verdict
from allocpolicy.report.audit import WORDS, Audit, Finding, Remark, Row

MEETS, DRIFTED, UNVERIFIABLE = (word.value for word in Judgement)
PENDING, NO_POLICY = Remark.PENDING.value, Remark.NO_POLICY.value
UNREADABLE, MISSING = Remark.UNREADABLE.value, Remark.MISSING.value


def row(word: str, *, number: int = 0) -> Row:
    """Return a row that has the word."""
    bare = word in (NO_POLICY, UNREADABLE)
    of_strategy = word in set(map(str, Judgement))
    return Row(
        disk=Path(f"/d/{number}"),
        strategy=None if bare else "space",
        verdict=Verdict(judgement=Judgement(word), reason="as the test says")
        if of_strategy
        else Finding(judgement=Remark(word), reason="as the test says"),
    )


def audit_of(*words: str, unlisted: int = 0, expected: int = 0) -> Audit:
    rows = tuple(row(word, number=number) for number, word in enumerate(words))
    return Audit(rows=rows, filesystems=(), unlisted=unlisted, expected=expected)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ((), 0),
        ((MEETS, PENDING, NO_POLICY), 0),
        ((MEETS, UNVERIFIABLE), 0),
        ((NO_POLICY,), 0),
        ((DRIFTED, MEETS), 1),
        ((MEETS, MISSING), 1),
        ((UNREADABLE, DRIFTED), 1),
        ((MEETS, UNREADABLE), 2),
        ((UNREADABLE, UNREADABLE), 2),
        ((UNREADABLE, UNVERIFIABLE), 2),
        ((UNVERIFIABLE,), 4),
        ((UNVERIFIABLE, UNVERIFIABLE, NO_POLICY), 4),
    ],
)
def test_0_is_only_where_something_was_seen_and_nothing_found(
    words: tuple[str, ...], status: int
) -> None:
    """1 goes first: something was found; 2: not looked at; 4: looked at in vain."""
    audit = audit_of(*words)
    assert audit.exit_status() == status
    if NO_POLICY in words:
        assert audit.exit_status(require_stamp=True) == 1


def test_a_directory_that_is_not_listed_is_no_disk_and_not_0() -> None:
    audit = audit_of(UNREADABLE, unlisted=1)
    assert (audit.disks, audit.unreadable, audit.exit_status()) == (0, 1, 2)
    assert audit.summary.startswith("0 disks: 0 meet, 0 drifted, 0 without policy")
    assert "1 path not read" in audit.summary


def test_a_disk_that_is_missing_does_not_count_as_found() -> None:
    for words, short in (((MEETS, NO_POLICY), False), ((MEETS, MISSING), True)):
        audit = audit_of(*words, expected=2)
        assert (audit.shortage is not None) is short
        assert audit.exit_status() == int(short)


def test_every_word_is_counted_once() -> None:
    """Each row has one of the words, and metrics have a series for each."""
    audit = audit_of(*(word for word in WORDS if word != "uncovered"))
    assert sum(audit.counts.values()) == len(WORDS) - 1
    assert set(WORDS) == set(map(str, Judgement)) | set(map(str, Remark)) - {
        "passed over"
    }
