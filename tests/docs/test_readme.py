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
    of_disk = ("command", "1 TiB, raw base")
    ours = median(*of_disk, "allocpolicy provision")
    theirs = min(
        median(*of_disk, "convert -C -o preallocation=metadata + resize the same"),
        median(*of_disk, "create -o preallocation=metadata + convert -n -C"),
    )
    assert f"takes {ours:.2f} s from a raw image on xfs" in README
    assert f"the same {theirs:.1f} s and more" in README
    first = ("writes", "4 KiB scattered, first")
    faster = median(*first, "none (CoW overlay)") / median(
        *first, "performance, sparse"
    )
    assert f"On xfs, QEMU's first writes are {faster:.1f} times faster" in README
    fleet = ("audit", "2,000 disks, warm")
    seconds = [
        2000 / median(*fleet, "allocpolicy audit"),
        2000 / median(*fleet, "qemu-img info + map"),
    ]
    said = f"audited in {seconds[0]:.1f} s, by `qemu-img` in {seconds[1]:.0f} s"
    assert said in README


def test_it_says_where_qemu_img_wins() -> None:
    of_disk = ("command", "1 TiB, qcow2 base")
    ours = median(*of_disk, "allocpolicy provision")
    assert 1.8 < ours / median(*of_disk, "convert -C + resize") < 2.5
    assert "`convert -C` and `resize` are twice as\nfast as we are" in README
