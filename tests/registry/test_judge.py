"""A verdict by the effective selection of a stamp, however old that is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from allocpolicy import (
    Allocation,
    BackingFile,
    DataFile,
    DiskFormat,
    ExtentSummary,
    Judgement,
    MappingState,
    Observation,
)
from allocpolicy.contract.strategy import Choice
from allocpolicy.registry import installed
from allocpolicy.registry.judge import Judge

RESERVED = Observation(
    format=DiskFormat.RAW,
    virtual_size=1 << 20,
    file_size=1 << 20,
    actual_size=1 << 20,
    full_size=1 << 20,
    mapping=MappingState.FULL,
    allocation=Allocation.RESERVED,
    guaranteed=True,
    exception=None,
    filesystem="ext4",
    extents=ExtentSummary(
        count=1,
        fragments=1,
        written=0,
        unwritten=1 << 20,
        shared=0,
        encoded=0,
        delalloc=0,
        hole=0,
    ),
)


def choice(strategy: str, **options: object) -> Choice:
    return Choice(strategy=strategy, options=options)


def test_options_newer_than_the_stamp_have_their_defaults() -> None:
    """A stamp that lacks an option is judged all the same."""
    verdict = Judge(refusal=lambda _: None).verdict(
        choice("performance", data="falloc"), RESERVED
    )
    assert verdict.judgement is Judgement.MEETS
    verdict = Judge(refusal=lambda _: None).verdict(
        choice("performance", data="full"), RESERVED
    )
    assert verdict.judgement is Judgement.DRIFTED


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (choice("space", reserve="prayer"), "'prayer'"),
        (choice("space", reserve=1), "1 is not a string"),
        (choice("space", unheard=True), "unheard"),
        (choice("no-such-strategy"), "not installed"),
    ],
)
def test_what_cannot_be_asked_is_unverifiable_and_says_why(
    made: Choice, says: str
) -> None:
    """No attachment is made up for it either."""
    judge = Judge(refusal=lambda _: None)
    verdict = judge.verdict(made, RESERVED)
    assert verdict.judgement is Judgement.UNVERIFIABLE
    assert says in verdict.reason
    assert verdict.reason.isprintable()
    assert judge.attachment(made, RESERVED) is None


@pytest.mark.parametrize("strategy", installed.names())
def test_a_chain_that_ends_too_early_is_a_drift(strategy: str) -> None:
    """Whatever the strategy: without it the guest can't even read."""
    missing = BackingFile(path=Path("/d/base"), format="raw", problem="it is gone")
    broken = dataclasses.replace(RESERVED, backing_chain=(missing,))
    verdict = Judge(refusal=lambda _: None).verdict(choice(strategy), broken)
    assert verdict.judgement is Judgement.DRIFTED
    assert "/d/base: it is gone" in verdict.reason


UNSEEN = BackingFile(
    path=Path("/d/base"), format="raw", problem="not opened", unseen=True
)


def test_without_its_whole_chain_a_disk_cannot_meet() -> None:
    """Drift that is found without it is drift."""
    judge = Judge(refusal=lambda _: None)
    seen = dataclasses.replace(RESERVED, backing_chain=(UNSEEN,))
    verdict = judge.verdict(choice("space"), seen)
    assert verdict.judgement is Judgement.UNVERIFIABLE
    assert verdict.reason == "its backing file /d/base: not opened"
    thin = dataclasses.replace(seen, allocation=Allocation.THIN)
    assert judge.verdict(choice("space"), thin).judgement is Judgement.DRIFTED


def test_what_a_strategy_tells_itself_is_not_told_again() -> None:
    """As of a data file: space tells why the observation has no guarantee."""
    problem = "it is gone"
    data = DataFile(path=Path("/d/data"), raw=True, problem=problem)
    seen = dataclasses.replace(
        RESERVED,
        allocation=Allocation.UNVERIFIABLE,
        exception=f"its data file /d/data: {problem}",
        data_file=data,
    )
    verdict = Judge(refusal=lambda _: None).verdict(choice("space"), seen)
    assert verdict.reason.count(problem) == 1


@pytest.mark.parametrize("unseen", [True, False])
def test_what_the_strategy_finds_is_told_beside_what_is_wrong_below(
    *, unseen: bool
) -> None:
    below = BackingFile(
        path=Path("/d/base"), format=None, problem="it is odd", unseen=unseen
    )
    seen = dataclasses.replace(
        RESERVED,
        allocation=Allocation.THIN,
        guaranteed=False,
        exception="thin: 512 bytes of holes",
        backing_chain=(below,),
    )
    verdict = Judge(refusal=lambda _: None).verdict(choice("space"), seen)
    assert verdict.judgement is Judgement.DRIFTED
    assert "its backing file /d/base: it is odd" in verdict.reason
    assert "512 bytes of holes" in verdict.reason


def test_a_strategy_that_is_not_allowed_is_neither_loaded_nor_asked() -> None:
    judge = Judge(refusal=lambda name: f"{name} is not allowed")
    judge.prepare(choice("space"))
    verdict = judge.verdict(choice("space"), RESERVED)
    assert verdict.judgement is Judgement.UNVERIFIABLE
    assert verdict.reason == "space is not allowed"
    assert judge.attachment(choice("space"), RESERVED) is None


@pytest.mark.parametrize("strategy", installed.names())
def test_every_installed_strategy_can_be_asked(strategy: str) -> None:
    judge = Judge(refusal=lambda _: None)
    assert judge.attachment(choice(strategy), RESERVED) is not None
    assert judge.verdict(choice(strategy), RESERVED).judgement in Judgement


def test_a_strategy_of_another_distribution_is_told() -> None:
    """The name alone doesn't make it the one that the disk was promised by."""
    by_whom = Choice(strategy="none", options={}, distribution="acme", version="1")
    verdict = Judge(refusal=lambda _: None).verdict(by_whom, RESERVED)
    assert verdict.judgement is Judgement.MEETS
    assert "its stamp is of none of acme, this is allocpolicy" in verdict.reason
    ours = dataclasses.replace(by_whom, distribution="allocpolicy", version="0.0.1")
    verdict = Judge(refusal=lambda _: None).verdict(ours, RESERVED)
    assert verdict.reason == "thin promises nothing"
