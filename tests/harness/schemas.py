"""Holding what commands print for programs against the schemas that are installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from allocpolicy import schema
from tests.harness.cli import Finished

SCHEMAS: Any = importlib.import_module("allocpolicy_schemas")
OF_COMMANDS: Mapping[str, str] = SCHEMAS.OF_COMMANDS


def validated(finished: Finished, *, command: str) -> Any:
    """Return what a command printed, which is what its schema says."""
    assert finished.stdout, finished.stderr
    found = schema.load(OF_COMMANDS[command])
    assert schema.validate(finished.document, schema=found) == []
    return finished.document
