"""Nova reads the provider configuration that a probe of the host becomes."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nova import exception
from nova.compute import provider_config as nova_provider_config

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.nova import provider_config
from allocpolicy.operations.probe import probe
from allocpolicy.report.probe import Probe, Trial
from tests.conftest import FreshFilesystem
from tests.harness.cli import allocpolicy
from tests.harness.filesystems import assert_clean, leave_free


def read_by_nova(text: str, directory: Path) -> list[str]:
    """Return the traits that Nova finds in a file, for all its compute nodes."""
    (directory / "allocpolicy.yaml").write_text(text)
    found = nova_provider_config.get_provider_configs(str(directory))
    assert list(found) == ["$COMPUTE_NODE"]
    traits: list[str] = found["$COMPUTE_NODE"]["traits"]["additional"]
    return traits


def probed(directory: Path, *trials: Trial) -> Probe:
    """Return a probe of the directory in which others were tried."""
    return replace(probe(directory, policy=Policy()), trials=trials)


@pytest.mark.filesystems("xfs", "ext4", "ext2")
def test_nova_reads_what_the_host_keeps(
    directory: Path, filesystem_kind: str, tmp_path: Path
) -> None:
    """A trait is there where `host probe` says so, and only there."""
    finished = allocpolicy("nova", "provider-config", directory)
    assert (finished.status, finished.stderr) == (0, "")
    traits = set(read_by_nova(finished.stdout, tmp_path))
    document: Any = allocpolicy("host", "probe", directory, "-f", "json").document
    for row in document["strategies"]:
        name = f"{row['strategy']}_{row['format']}".upper()
        keeps = f"CUSTOM_ALLOCPOLICY_KEEPS_{name}" in traits
        assert keeps is (row["verdict"] == "meets"), row
        guarantees = f"CUSTOM_ALLOCPOLICY_GUARANTEES_{name}" in traits
        assert guarantees is (keeps and row["guaranteed"]), row
    for name, can in document["capabilities"].items():
        assert (f"CUSTOM_ALLOCPOLICY_CAN_{name.upper()}" in traits) is can
    space = "CUSTOM_ALLOCPOLICY_KEEPS_SPACE_QCOW2"
    reflink = "CUSTOM_ALLOCPOLICY_CAN_REFLINK"
    assert (space in traits) is (filesystem_kind != "ext2")
    assert (reflink in traits) is (filesystem_kind == "xfs")
    assert f"#   {space}: " in finished.stdout or space in traits
    assert_clean(directory)


@pytest.mark.parametrize(
    "name", ["a-b", "0", "_", "x" * 300, "Ünknown.name", "a\nb: c"]
)
def test_every_name_of_a_strategy_is_a_legal_trait(name: str, tmp_path: Path) -> None:
    """Nova's schema takes the file, also with strategies that nobody can use."""
    kept = probe(tmp_path, policy=Policy()).trials[0]
    assert kept.outcome is not None
    found = probed(tmp_path, replace(kept, strategy=name))
    text = provider_config.text(found)
    traits = read_by_nova(text, tmp_path)
    legal = re.compile(r"CUSTOM_[A-Z0-9_]{1,248}")
    assert [trait for trait in traits if not legal.fullmatch(trait)] == []
    having = [trait for trait in traits if "_KEEPS_" in trait]
    assert len(having) == (len(name) < 200)


def test_one_trait_of_two_names_is_what_both_keep_to(tmp_path: Path) -> None:
    """Placement knows no hyphen: a-b and a_b have the same trait."""
    kept = probe(tmp_path, policy=Policy()).trials[0]
    broken = Trial(
        strategy="a_b", format=DiskFormat.QCOW2, outcome=None, error="it\nfails"
    )
    both = (replace(kept, strategy="a-b"), broken)
    for trials in (both, both[::-1]):
        text = provider_config.text(probed(tmp_path, *trials))
        assert "CUSTOM_ALLOCPOLICY_KEEPS_A_B_QCOW2" not in read_by_nova(text, tmp_path)
        assert "#   CUSTOM_ALLOCPOLICY_KEEPS_A_B_QCOW2: it fails\n" in text


def test_the_file_is_novas_to_read(tmp_path: Path) -> None:
    """It replaces an older one, whatever the umask, and standard output is empty."""
    path = tmp_path / "allocpolicy.yaml"
    path.write_text("old")
    before = os.umask(0o077)
    try:
        finished = allocpolicy("nova", "provider-config", tmp_path, "--output", path)
    finally:
        os.umask(before)
    assert (finished.status, finished.stdout, finished.stderr) == (0, "", "")
    assert path.stat().st_mode & 0o777 == 0o644
    assert read_by_nova(path.read_text(), tmp_path)
    assert os.listdir(tmp_path) == [path.name]


def test_a_full_filesystem_leaves_the_file_as_it_was(
    fresh_filesystem: FreshFilesystem, tmp_path: Path
) -> None:
    """Exit status 3, and one line that says what is full."""
    etc = fresh_filesystem("xfs", size=320 << 20)
    path = etc / "allocpolicy.yaml"
    path.write_text("old")
    leave_free(etc, 0)
    finished = allocpolicy("nova", "provider-config", tmp_path, "--output", path)
    assert finished.status == 3, finished.stderr
    assert str(etc) in finished.stderr  # whether a file can't be made, or written
    assert path.read_text() == "old"


def test_a_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    """Exit status 2, for either."""
    for line in ((tmp_path / "a",), (tmp_path, "--output", tmp_path / "a" / "b.yaml")):
        finished = allocpolicy("nova", "provider-config", *line)
        assert (finished.status, finished.stdout) == (2, "")
        assert len(finished.stderr.splitlines()) == 1
        assert str(tmp_path / "a") in finished.stderr


def test_nova_takes_one_file_for_its_compute_node(tmp_path: Path) -> None:
    """As docs/how-to/nova.md says: with a second one nova-compute doesn't start."""
    text = provider_config.text(probe(tmp_path, policy=Policy()))
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(exception.ProviderConfigException, match="multiple definitions"):
        read_by_nova(text, tmp_path)
