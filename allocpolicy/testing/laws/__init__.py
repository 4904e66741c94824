"""The laws, in the order in which they are tried: one list."""

from __future__ import annotations

from types import ModuleType

from allocpolicy.testing.law import ExecutedLaw, Law, PureLaw
from allocpolicy.testing.laws import (
    aftermath,
    beside_qemu,
    counting,
    declared,
    failures,
    guest,
    judgements,
    keeping,
    locks,
    manners,
    newer,
    plans,
    racing,
    recipes,
    serving,
    sizes,
    unfinished,
)

MODULES: tuple[ModuleType, ...] = (
    declared,
    plans,
    counting,
    judgements,
    newer,
    manners,
    locks,
    serving,
    guest,
    recipes,
    keeping,
    sizes,
    aftermath,
    failures,
    unfinished,
    racing,
    beside_qemu,
)


def laws() -> tuple[Law, ...]:
    """Return every law of the modules in `MODULES`, in the order of their text."""
    return tuple(
        law
        for module in MODULES
        for law in vars(module).values()
        if isinstance(law, PureLaw | ExecutedLaw)
    )
