"""The types of the operator's options that oslo.config has none for."""

from __future__ import annotations

import re

from oslo_config import types

from allocpolicy import size
from allocpolicy.contract.policy import PreparedDisks
from allocpolicy.errors import InvalidRequest
from allocpolicy.wording import choices

_ON_OFF = {"on": True, "off": False}


class Size(types.ConfigType):
    """A size in bytes, written as on the command line: ``64M``, ``10G``, or bytes."""

    def __init__(self) -> None:
        super().__init__(type_name="size")

    def __call__(self, value: object) -> int:
        """Return the bytes.

        :raises ValueError: when it is not a size.
        """
        try:
            return size.parse(str(value))
        except InvalidRequest as error:
            raise ValueError(error.reason) from error

    def __repr__(self) -> str:
        return "Size"

    def _formatter(self, value: int) -> str:
        return str(value)


class Version(types.ConfigType):
    """The version of a program: two numbers, of more only the first two matter."""

    def __init__(self) -> None:
        super().__init__(type_name="version")

    def __call__(self, value: object) -> tuple[int, int]:
        """Return the two numbers.

        :raises ValueError: when it is not a version.
        """
        found = re.fullmatch(r"(\d{1,4})\.(\d{1,4})(\.\d+)*", str(value).strip())
        if found is None:
            raise ValueError(f"{str(value)!r} is not a version such as 8.1")
        return int(found[1]), int(found[2])

    def __repr__(self) -> str:
        return "Version"

    def _formatter(self, value: tuple[int, int]) -> str:
        return ".".join(map(str, value))


class Prepared(types.ConfigType):
    """Whether disks are prepared: ``on``, ``off``, or the most bytes of them."""

    def __init__(self) -> None:
        super().__init__(type_name="on, off or size")

    def __call__(self, value: object) -> PreparedDisks:
        """Return what the text says.

        :raises ValueError: when it says none of these.
        """
        text = str(value).strip()
        if text.lower() in _ON_OFF:
            return PreparedDisks(enabled=_ON_OFF[text.lower()])
        try:
            most = size.parse(text)
        except InvalidRequest as error:
            near = choices((*_ON_OFF, "a size such as 20G"), nearest_to=text)
            raise ValueError(f"{text!r} is none of them; {near}") from error
        if not most:  # for other options, 0 means no limit
            raise ValueError("0 bytes hold no disk: say off, or on for no limit")
        return PreparedDisks(max_bytes=most)

    def __repr__(self) -> str:
        return "Prepared"

    def _formatter(self, value: PreparedDisks | str) -> str:
        if isinstance(value, str):  # the default, for a sample
            return value
        if value.max_bytes is not None:
            return str(value.max_bytes)
        return "on" if value.enabled else "off"
