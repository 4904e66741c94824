"""The mutants, and which law of the suite tells each one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allocpolicy import DiskFormat
from allocpolicy.testing.base_images import BaseKind
from tests.testing.mutants import of_content as content
from tests.testing.mutants import of_hooks as hooks
from tests.testing.mutants import of_plans as plans
from tests.testing.mutants import of_sizes as sizes
from tests.testing.mutants import of_steps as steps
from tests.testing.mutants import of_verdicts as verdicts
from tests.testing.mutants.healthy import Healthy


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A strategy that is wrong in one way.

    ``format`` and ``base`` are those of the disk at which a law that makes disks sees
    it.
    """

    strategy: type[Healthy]
    law: str
    format: DiskFormat = DiskFormat.RAW
    base: BaseKind | None = None

    @property
    def name(self) -> str:
        """The strategy's name: that of its class, in lower case with dashes."""
        return name_of(self.strategy)

    @property
    def mistake(self) -> str:
        """What is wrong about it, in one line."""
        return (self.strategy.__doc__ or "").strip()


# What each law sees; laws that make no disk first.
SEEN: dict[str, tuple[type[Healthy], ...]] = {
    "plans-keep-the-contract": (
        content.IgnoresTheBase,
        content.CopiesTwice,
        content.AmendsWithPlan,
        content.AmendsToAnEmptyDisk,
        content.CopiesOverTheDisk,
        content.HasNothingToGrow,
        sizes.SaysMoreIsReserved,
        sizes.SaysOnline,
        sizes.InheritsOnline,
        plans.YieldsSteps,
        plans.ListsSteps,
        plans.HasTheClass,
        plans.HasACoroutine,
        plans.HasAGenerator,
        plans.CountsInFloats,
        plans.CountsInNone,
        plans.CountsInBools,
        plans.CountsInItsOwn,
        plans.SaysTheModeInWords,
        plans.HasNoReason,
        plans.ReturnsNone,
        plans.PlansInPlace,
        plans.HasNoSteps,
        plans.HasStepsForNothing,
        plans.ChangesOptions,
        plans.RefusesWithAnError,
        plans.KnowsThreeAllocations,
        hooks.ObservesNothing,
        hooks.PlansWithAnother,
    ),
    "serves-new-disks": (plans.RefusesEverything,),
    "plans-are-steady": (plans.ThrowsDice, plans.Counts),
    "plans-ask-nothing-outside": (
        plans.LooksAtTheDirectory,
        plans.LooksAtTheSpace,
        plans.LooksAtTheClock,
        plans.LooksAtTheEnvironment,
    ),
    "plans-change-no-input": (plans.ChangesTheRequest,),
    "plans-are-values": (plans.HasAFunction,),
    "steps-describe-themselves": (plans.DescribesInTwoLines,),
    "new-disks-are-as-asked": (content.CopiesToTheBasesPlace,),
    "promised-covers-the-disk": (sizes.PromisesWhatItTakes,),
    "copies-are-counted": (sizes.SaysHalfThePeak,),
    "reservations-are-counted": (sizes.SaysNoPeakInPlace,),
    "reserved-is-not-written": (sizes.SaysWritten,),
    "own-storage-is-not-shared": (sizes.SharesTheBase,),
    "options-can-be-written": (hooks.CantBeGiven,),
    "options-are-described": (hooks.HasNoWords,),
    "options-survive-the-stamp": (
        hooks.IsTooLong,
        hooks.LosesOptions,
        hooks.MigratesInPlace,
        hooks.MigratesToNothing,
        hooks.ComparesVersions,
    ),
    "verify-judges-every-disk": (
        verdicts.SaysItInTwoLines,
        verdicts.SaysItInWords,
        verdicts.SaysTrue,
    ),
    "judgements-do-no-io": (verdicts.LooksAtTheDisk,),
    "newer-disks-are-judged": (verdicts.KnowsTwoAllocations,),
    "attachments-are-words-of-qemu": (
        hooks.MisspellsCache,
        hooks.AttachesWithoutAio,
        hooks.UnmapsWithoutDiscard,
        hooks.AttachesInWords,
        hooks.AttachesAnything,
    ),
    "locks-are-named-by-the-request": (
        hooks.LocksAnything,
        hooks.LocksAPath,
        hooks.LocksTheNamelessOne,
    ),
    "observe-changes-nothing": (hooks.ObservesByWriting, hooks.ObservesAnObject),
}

RAW, QCOW2 = DiskFormat.RAW, DiskFormat.QCOW2

# What is seen at disks that are made: of which format, and from which base image.
SEEN_AT: dict[str, dict[type[Healthy], tuple[DiskFormat, BaseKind | None]]] = {
    "serves-disks-here": {plans.MixesUpUnits: (RAW, None)},
    "changes-disks-here": {plans.MixesUpUnitsInAmend: (RAW, None)},
    "guests-read-the-base": {
        content.SaysThatItCopies: (RAW, BaseKind.RAW),
        content.CopiesPartOfTheBase: (RAW, BaseKind.RAW),
        content.CopiesTheFile: (RAW, BaseKind.QCOW2),
        content.MakesRaw: (QCOW2, None),
        content.MakesQcow2: (RAW, None),
        content.MakesTheBasesSize: (RAW, BaseKind.RAW),
    },
    "content-survives-apply": {
        content.EmptiesTheDisk: (RAW, None),
        content.ZeroesTheDisk: (QCOW2, None),
        content.RewritesTheFile: (QCOW2, None),
        content.RewritesWhatTheGuestReads: (QCOW2, None),
    },
    "content-survives-resize": {
        content.GrowsNothing: (RAW, None),
    },
    "recipes-make-the-same": {
        steps.BrewsByTheClock: (RAW, None),
        steps.BrewsByThePlace: (RAW, None),
    },
    "new-disks-meet": {
        verdicts.AlwaysDrifted: (RAW, None),
        verdicts.ReservesThenPunches: (RAW, None),
        sizes.SaysThatThinIsReserved: (RAW, None),
    },
    "a-second-apply-does-nothing": {verdicts.NeverSays: (RAW, None)},
    "verify-notices-discards": {
        verdicts.AlwaysMeets: (RAW, None),
        verdicts.LooksAtTheFormat: (QCOW2, None),
    },
    "verify-notices-sparse-copies": {verdicts.LooksAtTheFileSize: (RAW, None)},
    "verify-notices-shared-blocks": {verdicts.LooksAtTheSize: (RAW, None)},
    "unwritten-is-counted": {sizes.SaysNothingIsReserved: (RAW, None)},
    "the-disk-is-all-that-is-made": {
        steps.LeavesAFileBeside: (RAW, None),
        steps.LeavesAFileElsewhere: (RAW, None),
        steps.MarksItAsMade: (RAW, None),
        steps.LogsWhereItRuns: (RAW, None),
    },
    "steps-leave-the-process-alone": {
        steps.LeavesADescriptor: (RAW, None),
        steps.LeavesAChild: (RAW, None),
        steps.LeavesAThread: (RAW, None),
        steps.ChangesTheUmask: (RAW, None),
        steps.ChangesTheDirectory: (RAW, None),
        steps.ChangesTheEnvironment: (RAW, None),
        steps.IgnoresSigterm: (RAW, None),
        steps.BlocksSignals: (RAW, None),
        steps.SetsATimer: (RAW, None),
        steps.Prints: (RAW, None),
        steps.WritesToStdout: (RAW, None),
        steps.ClosesTheDescriptor: (RAW, None),
        steps.ReplacesTheDescriptor: (RAW, None),
        steps.ChangesTheFlags: (RAW, None),
        steps.Exits: (RAW, None),
    },
    "a-kill-leaves-nothing": {
        steps.PublishesItself: (RAW, None),
        steps.TakesFromAPool: (RAW, None),
    },
    "beside-a-vm-nothing-is-lost": {sizes.WritesBesideAVm: (RAW, None)},
}
REFLINK = {"verify-notices-shared-blocks"}  # what only a filesystem with it can show


def mutants() -> Iterator[Mutant]:
    """Yield every mutant with the law that tells it."""
    for law, strategies in SEEN.items():
        for strategy in strategies:
            yield Mutant(strategy=strategy, law=law)
    for law, places in SEEN_AT.items():
        for strategy, (format, base) in places.items():
            yield Mutant(strategy=strategy, law=law, format=format, base=base)


def name_of(strategy: type[Healthy]) -> str:
    """Return under which name a strategy is installed."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", strategy.__name__).lower()


def install(site: Path) -> None:
    """Write what pip would for a distribution ``mutants`` of all of them."""
    dist_info = site / "mutants-1.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Name: mutants\nVersion: 1\n")
    installed: tuple[type[Healthy], ...] = (
        Healthy,
        *(mutant.strategy for mutant in mutants()),
    )
    lines = [f"{name_of(one)} = {one.__module__}:{one.__name__}" for one in installed]
    text = "\n".join(("[allocpolicy.strategies]", *lines, ""))
    (dist_info / "entry_points.txt").write_text(text)
