"""Laws about recipes: a disk may be cloned from what the same recipe made before."""

from __future__ import annotations

import filecmp
import itertools
from contextlib import ExitStack
from pathlib import Path

from allocpolicy import BaseImage, Facts, Plan, PlanError, Unsupported
from allocpolicy.contract.statements import recipe_of
from allocpolicy.record import replace
from allocpolicy.registry import call
from allocpolicy.testing.law import NotApplicable, at_its_edges, executed, require
from allocpolicy.testing.records import FILESYSTEMS, facts_on, request
from allocpolicy.testing.running import opened, run_plan
from allocpolicy.testing.subject import SIZE, Place


@executed(
    "recipes-make-the-same",
    "Steps that state a recipe leave the same bytes again, elsewhere and later.",
    where=at_its_edges,
)
def recipes_make_the_same(place: Place) -> None:
    elsewhere = place.directory / "elsewhere"
    elsewhere.mkdir()
    with ExitStack() as stack:
        base = stack.enter_context(opened(place.base)) if place.base else None
        first, again = (
            run_plan(_with_recipes(place, base, directory), directory / "made")
            for directory in (place.directory, elsewhere)
        )
    try:
        same = filecmp.cmp(first, again, shallow=False)
        told = "what its steps leave is no function of their recipes: it differs"
        require(same, told)
    finally:
        first.unlink()
        again.unlink()
        elsewhere.rmdir()


def _with_recipes(place: Place, base: BaseImage | None, directory: Path) -> Plan:
    """Return the plan of the place's disk up to the first step without a recipe.

    :raises NotApplicable: when that is the first one, or the place is refused.
    """
    size = base.virtual_size if base else SIZE
    asked = request(
        place.format, base=base, virtual_size=size, destination=directory / "made"
    )
    loaded = place.subject.loaded
    facts, options = _facts(place, base, directory), place.options
    try:
        seen = call.observe(loaded, request=asked, options=options, host=facts.host)
        facts = replace(facts, observed=seen)
        plan = call.plan(loaded, request=asked, options=options, facts=facts)
    except (PlanError, Unsupported) as refusal:
        raise NotApplicable(str(refusal)) from refusal
    steps = tuple(itertools.takewhile(recipe_of, plan.steps))
    if not steps:
        raise NotApplicable("its first step states no recipe")
    return replace(plan, steps=steps)


def _facts(place: Place, base: BaseImage | None, directory: Path) -> Facts:
    known = place.filesystem in FILESYSTEMS
    filesystem = place.filesystem if known else "ext4"
    return facts_on(filesystem, base=base, directory=directory)
