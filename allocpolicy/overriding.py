"""``override`` for type checkers (PEP 698), which `typing` has since Python 3.12."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method):
        """Return the method as it is: at run time nothing is to be checked."""
        return method


__all__ = ["override"]
