"""The inspection of a base image: what it is, and what a disk made from it takes."""

from __future__ import annotations

from pathlib import Path

from allocpolicy.record import dataclass
from allocpolicy.report.plain import plain

_ROLE, _PERHAPS_A_DISK = "base image", "base image, or a disk without a policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseInspection:
    """What a base image is, as its own headers say; sizes in bytes.

    ``is_certain`` is False for a file that may as well be a disk that never had a
    stamp, or lost it. ``packed`` says what the image is packed in, if it is.
    ``data_bytes`` is the most that a thin copy takes, ``converted_bytes`` the most that
    the image cache takes for a raw copy, None where the image is used as it is.
    """

    image: Path
    is_certain: bool
    format: str
    packed: str | None
    virtual_size: int
    file_size: int
    actual_size: int
    data_bytes: int
    converted_bytes: int | None
    converted_from: str | None

    @property
    def role(self) -> str:
        """Return what it is, as far as that is known."""
        return _ROLE if self.is_certain else _PERHAPS_A_DISK

    def as_document(self) -> dict[str, object]:
        """Return the object that ``-f json`` prints: schemas/base_inspection.json."""
        fields = plain(self) or {}
        fields.pop("is_certain")
        return {"role": self.role, "stamp": None, **fields}
