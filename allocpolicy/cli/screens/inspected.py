"""An inspection as people read it: of a disk, or of a base image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from allocpolicy.cli.screens import characters, observed, screen
from allocpolicy.contract.facts import BackingFile, Use
from allocpolicy.contract.strategy import Choice, Judgement
from allocpolicy.errors import Error
from allocpolicy.images.stamp import Stamp
from allocpolicy.registry import installed
from allocpolicy.registry.installed import Loaded
from allocpolicy.report.audit import Remark
from allocpolicy.report.base_inspection import BaseInspection
from allocpolicy.report.inspection import Inspection
from allocpolicy.resolve import labels
from allocpolicy.storage.extent import ExtentSummary
from allocpolicy.wording import amount, shell_word


def of_disk(found: Inspection, *, given: Choice | None, width: int) -> Iterator[str]:
    """Yield the screen: the verdict and what to do, the storage, the VM."""
    seen, stamp = found.observed, found.stamp
    chosen = stamp.effective if stamp else given
    policy = policy_of(chosen) if chosen else "no policy"
    if stamp and stamp.asked and stamp.asked.flavor:
        policy = f"{policy} (flavor {stamp.asked.flavor})"
    yield from observed.head(
        found.disk, what=observed.what(seen), policy=policy, width=width
    )
    extents = seen.extents
    shown = {
        **_judged(found),
        "storage": observed.storage(seen),
        "inherited": f"the policy of {found.inherited_from}"
        if found.inherited_from
        else "",
        "chain": [_backing(one) for one in seen.backing_chain[1:]],
        "extents": _extents(extents) if extents and extents.count else "",
        "in use": "" if seen.in_use is Use.NONE else str(seen.in_use),
        "hindrances": list(seen.hindrances),
        **_attached(found),
        **(asked(stamp) if stamp else {}),
    }
    yield from screen.pairs(shown, width=width)


def _extents(found: ExtentSummary) -> str:
    fragments = "1 fragment" if found.fragments == 1 else f"{found.fragments} fragments"
    return f"{found.count} in {fragments}"


def policy_of(choice: Choice) -> str:
    """Return a strategy and its options, without the defaults if it is installed."""
    try:
        loaded: Loaded | None = installed.load(choice.strategy)
    except Error:  # it may be gone, and the disk is there
        loaded = None
    return observed.policy(choice, loaded=loaded)


def _judged(found: Inspection) -> dict[str, str]:
    verdict, disk = found.verdict, typed(found.disk)
    if verdict is None:
        return {
            str(found.observed.allocation): observed.enospc(found.observed),
            "do": f"allocpolicy stamp set {disk} --disk-format {found.observed.format}"
            " --strategy NAME: it has no policy",
        }
    word, promise = str(verdict.judgement), observed.promise(verdict, found.observed)
    pending = found.stamp is not None and _is_pending(found.stamp)
    if pending and verdict.judgement is Judgement.MEETS:
        word = Remark.PENDING.value  # as an audit says
    lines = {word: promise}
    if found.uncovered:
        lines["uncovered"] = found.uncovered
    drifted = verdict.judgement is Judgement.DRIFTED
    if found.stamp and (drifted or word == Remark.PENDING.value):
        lines["do"] = f"allocpolicy apply {disk}"
    return lines


def _is_pending(stamp: Stamp) -> bool:
    """Return whether more is requested than what is in force."""
    return policy_of(stamp.requested) != policy_of(stamp.effective)


def typed(disk: Path) -> str:
    """Return how a disk is named on a command line, in the characters there are."""
    return shell_word(disk, ascii_only=characters.is_ascii())


def _attached(found: Inspection) -> dict[str, str]:
    if found.attachment:
        return {"attach": observed.attached(found.attachment)}
    return {"attach": f"unknown: {found.unattachable}"} if found.verdict else {}


def asked(stamp: Stamp) -> dict[str, str]:
    """Return what the stamp has besides the policy in force."""
    given = labels.effective(stamp.asked)
    return {
        "requested": policy_of(stamp.requested) if _is_pending(stamp) else "",
        "labels": observed.labels(given, asked=stamp.asked),
    }


def _backing(one: BackingFile) -> str:
    return f"{one.problem or one.format} {one.path}"


def of_base(found: BaseInspection, *, width: int) -> Iterator[str]:
    """Yield the screen of a base image: what a disk made from it takes."""
    what = f"{amount(found.virtual_size)} {found.format}"
    yield from observed.head(found.image, what=what, policy=found.role, width=width)
    copy = found.converted_bytes
    as_disk = f"it has no policy; see it with --disk-format {found.format}"
    shown = {
        "as a disk": "" if found.is_certain else as_disk,
        "storage": f"{amount(found.actual_size)}, of which up to"
        f" {amount(found.data_bytes)} are data",
        "copy": "not needed: it is used as it is"
        if copy is None
        else f"up to {amount(copy)} in the image cache",
        "packed": found.packed or "",
        "converted": f"from {found.converted_from}" if found.converted_from else "",
    }
    yield from screen.pairs(shown, width=width)
