"""Metrics are text that every reader of node_exporter's files takes."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser

from allocpolicy import (
    Allocation,
    DiskFormat,
    ExtentSummary,
    Judgement,
    MappingState,
    Observation,
    Verdict,
)
from allocpolicy.errors import DestinationError
from allocpolicy.observe.account import Account
from allocpolicy.observe.unknown import Unknown, Why
from allocpolicy.report import metrics
from allocpolicy.report.audit import WORDS, Audit, Row, Storage

ALERTS = Path(__file__).parents[2] / "contrib/prometheus/alerts.yml"
OBSERVED = Observation(
    format=DiskFormat.RAW,
    virtual_size=1 << 46,
    file_size=1 << 46,
    actual_size=3 << 20,
    full_size=1 << 46,
    mapping=MappingState.FULL,
    allocation=Allocation.THIN,
    guaranteed=False,
    exception="thin",
    filesystem="xfs",
    extents=ExtentSummary(
        count=2,
        fragments=2,
        written=2 << 20,
        unwritten=1 << 20,
        shared=0,
        encoded=0,
        delalloc=0,
        hole=(1 << 46) - (3 << 20),
    ),
)
ACCOUNT = Account(
    size=1 << 50,
    used=1 << 49,
    free=7,
    reserved_blocks=0,
    disks=2,
    unstamped=0,
    malformed=0,
    images=0,
    unreadable=0,
    virtual_size=1 << 47,
    allocated=6 << 20,
    unwritten=2 << 20,
    promised=1 << 47,
)
# What the classic text format has; the collector refuses a file with any other.
CLASSIC_TYPES = {"counter", "gauge", "histogram", "summary", "untyped"}
PARSERS = [
    parser.text_string_to_metric_families,
    openmetrics_parser.text_string_to_metric_families,
]

names = st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name)
every_parser = pytest.mark.parametrize("parse", PARSERS)


def audit_of(*disks: str, judgement: Judgement = Judgement.DRIFTED) -> Audit:
    verdict = Verdict(judgement=judgement, reason="as the test says")
    return Audit(
        rows=tuple(
            Row(disk=Path(disk), strategy="space", verdict=verdict, observed=OBSERVED)
            for disk in disks
        ),
        filesystems=(Storage(key="/dev/a", type="xfs", account=ACCOUNT),),
    )


def values(families: Iterable[Metric], name: str) -> Iterator[tuple[str, float]]:
    for family in families:
        for sample in family.samples:
            if sample.name == name:
                labels = dict(sample.labels)
                key = labels.get("verdict", labels.get("filesystem", ""))
                yield f"{labels.get('disk', '')}{key}", sample.value


@every_parser
def test_both_parsers_read_every_sample(parse: object) -> None:
    """The values are whole bytes; a verdict is 1 for the one that holds."""
    assert callable(parse)
    families = list(parse(metrics.text(audit_of("/d/a"))))
    assert dict(values(families, "allocpolicy_disk_verdict")) == {
        "/d/ameets": 0,
        "/d/apending": 0,
        "/d/adrifted": 1,
        "/d/aoutdated": 0,
        "/d/aunverifiable": 0,
        "/d/aunreadable": 0,
        "/d/auncovered": 0,
        "/d/ano policy": 0,
        "/d/amissing": 0,
    }
    for name, value in (
        ("allocpolicy_disk_virtual_bytes", 1 << 46),
        ("allocpolicy_disk_actual_bytes", 3 << 20),
        ("allocpolicy_disk_reserved_bytes", 1 << 20),
    ):
        assert dict(values(families, name)) == {"/d/a": value}
    for name, value in (("size", 1 << 50), ("free", 7), ("promised", 1 << 47)):
        found = values(families, f"allocpolicy_filesystem_{name}_bytes")
        assert dict(found) == {"/dev/a": value}
    assert all(family.documentation for family in families)


def test_every_type_is_one_that_the_collector_knows() -> None:
    """OpenMetrics has others; and a unit is told by name and by line."""
    text = metrics.text(audit_of("/d/a"))
    types = dict(re.findall(r"# TYPE (\w+) (\w+)", text))
    assert set(types.values()) <= CLASSIC_TYPES
    units = dict(re.findall(r"# UNIT (\w+) (\w+)", text))
    sizes = {name: "bytes" for name in types if name.endswith("_bytes")}
    assert units == sizes | {"allocpolicy_audit_timestamp_seconds": "seconds"}
    assert text.endswith("\n# EOF\n")


@every_parser
@given(name=names)
def test_any_name_of_a_file_can_be_a_label(parse: object, name: bytes) -> None:
    """Quotes, backslashes, newlines; and what is not UTF-8 is shown by number."""
    assert callable(parse)
    disk = os.fsdecode(b"/" + name)
    families = list(parse(metrics.text(audit_of(disk))))
    shown = os.fsencode(Path(disk)).decode(errors="backslashreplace")
    (found,) = values(families, "allocpolicy_disk_virtual_bytes")
    assert found == (shown, 1 << 46)


@pytest.mark.parametrize(
    "names", [("/d/a", "/d/a"), ("/d/\udcff", r"/d/\xff")], ids=["same", "not UTF-8"]
)
def test_no_series_appears_twice(names: tuple[str, str]) -> None:
    """The collector refuses a file that has one twice; the finding is told."""
    found = audit_of(*names)
    first, second = found.rows
    verdict = Verdict(judgement=Judgement.MEETS, reason="as the test says")
    for rows in (
        (dataclasses.replace(first, verdict=verdict), second),
        (first, dataclasses.replace(second, verdict=verdict)),
    ):
        text = metrics.text(dataclasses.replace(found, rows=rows))
        samples = [one for one in text.splitlines() if not one.startswith("#")]
        series = [one.rpartition(" ")[0] for one in samples]
        assert len(series) == len({*series})
        (holds,) = (one for one in samples if "verdict=" in one and one[-1] == "1")
        assert 'verdict="drifted"' in holds


def test_every_metric_is_in_the_page() -> None:
    text = metrics.text(Audit(rows=(), filesystems=()))
    names = set(re.findall(r"# TYPE (\w+)", text))
    page = (ALERTS.parents[2] / "docs/how-to/auditing.md").read_text()
    assert "allocpolicy_filesystem_prepared_bytes" in names
    assert names == set(re.findall(r"^\| `(allocpolicy_\w+)`", page, re.MULTILINE))


@every_parser
def test_an_audit_of_nothing_is_valid_too(parse: object) -> None:
    assert callable(parse)
    families = list(parse(metrics.text(Audit(rows=(), filesystems=()))))
    counts = {sample.name: sample.value for one in families for sample in one.samples}
    assert counts == {
        "allocpolicy_audited_disks": 0,
        "allocpolicy_unstamped_files": 0,
        "allocpolicy_base_images": 0,
        "allocpolicy_found_disks": 0,
        "allocpolicy_expected_disks": 0,
        "allocpolicy_unreadable_paths": 0,
        "allocpolicy_audit_timestamp_seconds": 0,
    }


@every_parser
def test_what_is_unknown_of_a_filesystem_has_a_sample_for_each_reason(
    parse: object,
) -> None:
    """Also where everything is known: a series must not end."""
    assert callable(parse)
    unknown = Unknown(why=Why.CLAIMED, count=3, promised=1 << 40, example="/d/b")
    account = dataclasses.replace(ACCOUNT, unknown=(unknown,))
    storage = Storage(key="/dev/a", type="xfs", account=account)
    families = list(parse(metrics.text(Audit(rows=(), filesystems=(storage,)))))
    found = {
        sample.labels["why"]: sample.value
        for one in families
        for sample in one.samples
        if sample.name == "allocpolicy_filesystem_unknown_files"
    }
    assert found == dict.fromkeys(map(str, Why), 0) | {"claimed": 3}


@every_parser
def test_each_path_that_was_looked_at_has_its_disks(parse: object) -> None:
    """An empty one has 0; one that was not looked at, or can't be, has no sample."""
    assert callable(parse)
    counts = {Path("/d"): 2, Path("/e"): 0, Path("/f"): 0}
    audit = dataclasses.replace(
        audit_of("/d/a", "/d/b"),
        found=counts,
        closed=frozenset({Path("/d"), Path("/f")}),
        ended=1e9,
    )
    families = list(parse(metrics.text(audit)))
    samples = [sample for one in families for sample in one.samples]
    found = {
        sample.labels["path"]: sample.value
        for sample in samples
        if sample.name == "allocpolicy_path_disks"
    }
    assert found == {"/d": 2, "/e": 0}
    values = {sample.name: sample.value for sample in samples}
    assert values["allocpolicy_audit_timestamp_seconds"] == 1e9
    assert values["allocpolicy_found_disks"] == 2


def test_every_verdict_but_meets_leads_to_an_alert() -> None:
    """By its own alert, or by one on the number of such files."""
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    asked = [str(rule["expr"]) for rule in rules]
    counted = {"no policy": "unstamped_files", "unreadable": "unreadable_paths"}
    for word in set(WORDS) - {Judgement.MEETS.value}:
        wanted = f'allocpolicy_disk_verdict{{verdict="{word}"}} == 1'
        if word in counted:
            wanted = f"allocpolicy_{counted[word]} > 0"
        assert wanted in asked


def test_a_disk_that_could_not_be_observed_has_a_verdict_and_no_sizes() -> None:
    verdict = Verdict(judgement=Judgement.UNVERIFIABLE, reason="closed")
    row = Row(disk=Path("/d/a"), strategy=None, verdict=verdict)
    text = metrics.text(Audit(rows=(row,), filesystems=()))
    assert 'disk="/d/a",strategy="",verdict="unverifiable"} 1' in text
    assert "_bytes{" not in text


def test_the_file_is_replaced_and_readable_by_others(tmp_path: Path) -> None:
    """Whatever the umask; names that a killed writer left behind are removed."""
    path = tmp_path / "allocpolicy.prom"
    path.write_text("old\n")
    (tmp_path / ".allocpolicy-0123456789abcdef.tmp").write_text("half")
    before = os.umask(0o077)
    try:
        with path.open() as old:
            metrics.write(path, audit_of("/d/a"))
            assert old.read() == "old\n"
    finally:
        os.umask(before)
    assert path.read_text() == metrics.text(audit_of("/d/a"))
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == [path.name]


def test_a_directory_in_its_place_is_refused_and_nothing_left(tmp_path: Path) -> None:
    (tmp_path / "x.prom").mkdir()
    with pytest.raises(DestinationError, match=r"x\.prom"):
        metrics.write(tmp_path / "x.prom", audit_of("/d/a"))
    assert os.listdir(tmp_path) == ["x.prom"]


@pytest.mark.parametrize("kind", ["fifo", "link", "dangling link", "link to a FIFO"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    """It would be /dev/null or /dev/stdout, for every program of the host."""
    path, other = tmp_path / "x.prom", tmp_path / "other"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    if kind == "link":
        other.write_text("old")
    elif kind == "link to a FIFO":
        os.mkfifo(other)
    before = [(one, one.lstat().st_ino) for one in sorted(tmp_path.iterdir())]
    with pytest.raises(DestinationError, match=r"x\.prom: it is a .*, not a regular"):
        metrics.write(path, audit_of("/d/a"))
    after = [(one, one.lstat().st_ino) for one in sorted(tmp_path.iterdir())]
    assert after == before
    assert kind != "link" or other.read_text() == "old"
