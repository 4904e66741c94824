"""The names of a new strategy's distribution: all follow from the strategy's own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re

from allocpolicy import wording
from allocpolicy.errors import InvalidRequest
from allocpolicy.record import dataclass
from allocpolicy.registry import installed

# A distribution's name ends with a letter or digit, a class's begins with a letter.
_NAME = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
_LONGEST = 40  # no line of the template becomes longer than 88 columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What all is called: of ``my-quota`` ``allocpolicy-my-quota``, and so on."""

    name: str

    @property
    def distribution(self) -> str:
        """The distribution, as pip installs it."""
        return re.sub(r"[_-]+", "-", f"allocpolicy-{self.name}")

    @property
    def module(self) -> str:
        """The package, as Python imports it."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """The class, which is called as nothing in allocpolicy is."""
        words = re.split(r"[_-]+", self.name)
        return "".join(word.capitalize() for word in words) + "Strategy"


def names_of(name: str) -> Names:
    """Return the names of a new strategy's distribution.

    :raises InvalidRequest: when one of them is taken, or can't be.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"a strategy can't be named {wording.bounded(name)!r}: a new one's name has"
            " a-z, 0-9, _ and - only, begins with a letter and doesn't end with _ or -"
        )
    if len(name) > _LONGEST:
        raise InvalidRequest(
            f"a strategy can't be named {wording.bounded(name)!r}: a new one's name has"
            f" at most {_LONGEST} characters"
        )
    if name == installed.RESERVED:
        raise InvalidRequest(f"a strategy can't be named {name!r}: it means the choice")
    names = Names(name=name)
    _refuse_taken(names)
    return names


def _refuse_taken(names: Names) -> None:
    """Refuse what could not be installed beside what there is.

    :raises InvalidRequest: naming what is there.
    """
    for found in installed.find_all():
        if found.name == names.name:
            raise InvalidRequest(f"strategy {names.name!r} is installed: {found}")
    try:
        there = importlib.metadata.distribution(names.distribution)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        told = f"{there.name} {there.version}"
        raise InvalidRequest(f"distribution {told} is installed; choose another name")
    if importlib.util.find_spec(names.module) is not None:
        raise InvalidRequest(
            f"module {names.module} is there already; choose another name"
        )
