"""What commands say of a disk, checked against its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allocpolicy import schema
from tests.harness.cli import allocpolicy


def inspected(disk: Path, *arguments: str) -> Any:
    """Return the document of ``inspect``, which must be valid."""
    finished = allocpolicy("inspect", disk, *arguments, "-f", "json")
    assert finished.status == 0, finished.stderr
    document = finished.document
    assert schema.validate(document, schema=schema.load("inspection")) == []
    return document
