"""The README leads to what is there, and its figures are those that were measured."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from tests.harness.tool import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", [page for page in load("blocks").PAGES if not page.startswith("docs/")]
)
def test_a_link_leads_to_a_file(page: str) -> None:
    """Those between the site's pages are checked while it is built."""
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_it_counts_no_promises_that_are_not_there() -> None:
    promises = (ROOT / "docs/explanation/reliability.md").read_text(encoding="utf-8")
    said = re.search(r"(\d+) more promises", README)
    assert said is not None
    assert len(re.findall(r"^\| .*\| `", promises, re.MULTILINE)) >= int(said[1])


def median(part: str, case: str, contender: str) -> float:
    """Return what was measured on xfs: seconds, or disks in a second."""
    found = json.loads((ROOT / "benchmarks/results/results.json").read_text())
    return next(
        float(statistics.median(record["values"]))
        for one in found["parts"][part]["comparisons"]
        for record in one["records"]
        if (one["filesystem"], one["case"], record["name"]) == ("xfs", case, contender)
    )


def test_its_figures_are_those_of_the_benchmarks() -> None:
    """Rounded, and of all ways to the same disk the fastest."""
    for base in ("raw base", "qcow2 base"):
        clone = median("prepared", base, "provision, prepared")
        overlay = median("prepared", base, "overlay (the floor): create -b")
        assert clone / overlay < 0.5
    assert "is made in less than half the time of `qemu-img`'s overlay" in README
    batch = median("batch", "1,000 disks", "allocpolicy provision --batch")
    assert f"A thousand such disks of 1 TiB are made in {batch:.1f} s" in README
    first = ("writes", "4 KiB scattered, first")
    faster = median(*first, "none (CoW overlay)") / median(
        *first, "performance, sparse"
    )
    assert f"On xfs, QEMU's first writes are {faster:.1f} times faster" in README
    again = median("known", "2,000 clones", "audit again")
    all_of_it = median("known", "2,000 clones", "--read-all")
    said = f"audited again in {again:.1f} s; reading them takes {all_of_it:.0f} s"
    assert said in README


def test_it_says_where_qemu_img_wins() -> None:
    of_disk = ("prepared", "raw base")
    ours = median(*of_disk, "provision, not prepared")
    assert ours > 2 * median(*of_disk, "overlay (the floor): create -b")
    assert "The first disk of a kind takes three times as long" in README
