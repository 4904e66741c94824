"""The benchmarks are not installed: their package is the one beside the tests."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

_PLACE = Path(__file__).parents[2] / "benchmarks"

if "benchmarks" not in sys.modules:
    spec = ModuleSpec("benchmarks", None, is_package=True)
    spec.submodule_search_locations = [str(_PLACE)]
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
