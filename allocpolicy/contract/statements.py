"""What steps state of themselves, and what they must be to be steps at all.

A step states by attributes what nobody else can know of it. `Step` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from allocpolicy.contract import signature
from allocpolicy.contract.facts import BaseImage
from allocpolicy.contract.plan import Step
from allocpolicy.wording import named

_KINDS: Mapping[str, type] = {
    "in_place": bool,
    "online": bool,
    "carries": BaseImage,
    "copied_bytes": int,
    "adopts": Path,
    "recipe": str,
}
_LONGEST_RECIPE = 2000  #: characters


def wrong_steps(steps: Sequence[object]) -> Iterator[str]:
    """Yield what isn't a step, and what doesn't do what it is called for."""
    for step in steps:
        if not _is_step(step):
            yield f"steps has {named(step)}, not a Step"
        for name in ("describe", "run"):
            method: object = getattr(step, name)
            if not callable(method):
                yield f"{name} of {class_of(step)} is {named(method)}, not a method"
            if made := signature.deferred(method):
                yield f"{name}() of {class_of(step)} is {made}: it would do nothing"


def wrong_statements(steps: Sequence[Step]) -> Iterator[str]:
    """Yield what is wrong about what the steps state of themselves."""
    for step in steps:
        for name, kind in _KINDS.items():
            stated = getattr(step, name, None)
            if stated is not None and not isinstance(stated, kind):
                step_is = f"{name} of {class_of(step)}"
                yield f"{step_is} is {named(stated)}, not a {kind.__name__}"
        if states(step, "online") and not states(step, "in_place"):
            yield f"{class_of(step)} is online, and not in_place"
        yield from _wrong_recipe(step)


def _wrong_recipe(step: Step) -> Iterator[str]:
    recipe = getattr(step, "recipe", None)
    if not isinstance(recipe, str):  # none, or a wrong one, which is told already
        return
    if not 0 < len(recipe) <= _LONGEST_RECIPE:
        wanted = f"1 to {_LONGEST_RECIPE}"
        yield f"recipe of {class_of(step)} has {len(recipe)} characters, not {wanted}"
    elif not recipe.isprintable():
        yield f"recipe of {class_of(step)} is not printable"


def recipe_of(step: Step) -> str | None:
    """Return the recipe that a step states for the ``run`` that it has, or None."""
    stated: object = getattr(step, "recipe", None)
    if isinstance(stated, str) and _is_of_its_run(step, "recipe"):
        return stated
    return None


def states(step: Step, name: str) -> bool:
    """Return whether a step states a property, ``in_place`` or ``online``.

    What a class inherits from another distribution says nothing of a ``run`` of its
    own, which does what that distribution can't know.
    """
    return getattr(step, name, False) is True and _is_of_its_run(step, name)


def _is_of_its_run(step: Step, name: str) -> bool:
    """Return whether who states a property is who wrote the step's ``run``."""
    says, runs = _where(step, name), _where(step, "run")
    lineage = type(step).__mro__
    if says is None or runs is None:  # the object itself says so, or does it
        return runs is not None or says is None
    return lineage.index(says) <= lineage.index(runs) or _owner(says) == _owner(runs)


def not_carried(
    steps: Sequence[Step], images: Sequence[BaseImage], *, called: str
) -> Iterator[str]:
    """Yield why the guest reads none of the images after the steps, if it is so.

    The last step that says something about it decides: one that creates an empty disk
    carries None.

    :param called: what the images are called in a message.
    """
    said = [step for step in steps if hasattr(step, "carries")]
    carried = [getattr(step, "carries", None) for step in said]
    if carried and carried[-1] in images:
        return
    if any(one in images for one in carried):
        yield f"{class_of(said[-1])} replaces {called}, which is there by then"
    else:
        yield f"no step carries {called}"


def class_of(step: object) -> str:
    """Return what a step is called in a message."""
    return f"the step {type(step).__name__}"


def _is_step(given: object) -> bool:
    """Return whether it is a step, and not its class."""
    return isinstance(given, Step) and not isinstance(given, type)


def _where(step: Step, name: str) -> type | None:
    """Return the class that has an attribute, None if the object has it itself."""
    if name in getattr(step, "__dict__", ()):
        return None
    return next((one for one in type(step).__mro__ if name in vars(one)), None)


def _owner(one: type) -> str:
    return one.__module__.partition(".")[0]
