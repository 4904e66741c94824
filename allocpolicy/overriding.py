"""``override`` for type checkers (PEP 698); `typing` has it since Python 3.12."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method):
        """Return the method unchanged: nothing is checked at run time."""
        return method


__all__ = ["override"]
