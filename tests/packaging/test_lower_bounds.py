"""The script that derives the environment ``lowest`` from setup.cfg."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "tools" / "lower_bounds.py"))


def bounds(directory: Path, *, install_requires: str) -> Mapping[str, str]:
    """Return what the script makes of a setup.cfg."""
    setup_cfg = directory / "setup.cfg"
    setup_cfg.write_text(f"[options]\ninstall_requires =\n    {install_requires}\n")
    found: Mapping[str, str] = SCRIPT["lower_bounds"](setup_cfg)
    return found


def test_extras_do_not_count(tmp_path: Path) -> None:
    """pip's constraints take no extras."""
    found = bounds(tmp_path, install_requires="a.b[c]>=1.2.0\n    d >= 3")
    assert found == {"a.b": "1.2.0", "d": "3"}


@pytest.mark.parametrize("requirement", ["a", "a==1", "a>=1,<2", "a>=1; os_name"])
def test_a_requirement_has_one_lower_bound(tmp_path: Path, requirement: str) -> None:
    """What can't be held to its bound is an error, not left out."""
    with pytest.raises(ValueError, match="no single lower bound"):
        bounds(tmp_path, install_requires=requirement)


def test_our_own_requirements_have_bounds() -> None:
    """setup.cfg is in the form that the script reads."""
    assert "cliff" in SCRIPT["lower_bounds"](ROOT / "setup.cfg")
