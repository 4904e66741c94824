"""Frozen records: the standard library's ``dataclasses``, without generated code.

Type checkers see the standard library's functions: these have their meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, field, replace
else:
    from allocpolicy.record_class import dataclass, field
    from allocpolicy.record_copies import asdict, replace

__all__ = ["asdict", "dataclass", "field", "replace"]
