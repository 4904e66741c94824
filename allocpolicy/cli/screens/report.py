"""A report: its fields, and the screen that people read."""

from __future__ import annotations

from collections.abc import Iterator

from allocpolicy.cli.screens import brief, observed, screen
from allocpolicy.contract.plan import Mode
from allocpolicy.operations.data_path import AS_REQUESTED, NOTHING_TO_DO
from allocpolicy.report.report import Report
from allocpolicy.wording import amount, apart

FIELDS = (
    *("disk", "operation", "mode", "changed", "dry_run", "format", "virtual_size"),
    *("requested", "effective", "labels"),
    *("unmet", "before", "observed", "verdict", "attachment", "stamp"),
    *("cloned", "steps"),
    *("peak_bytes", "promised_bytes", "reserved_bytes"),
    *("headroom_bytes", "free_bytes", "free_after_bytes", "elapsed"),
)
COLUMNS = tuple(one for one in observed.COLUMNS if one.name not in FIELDS)


def lines(report: Report, *, width: int) -> Iterator[str]:
    """Yield the screen: the verdict, what the disk takes, and how it is attached."""
    yield from observed.head(
        report.disk, what=_what(report), policy=_policy(report), width=width
    )
    said = _plan(report) if report.dry_run else _done(report)
    yield from screen.pairs(said, width=width)
    yield f"  {report.elapsed:.1f} s"


def _what(report: Report) -> str:
    sizes = [amount(report.virtual_size)]
    if report.before and report.before.virtual_size != report.virtual_size:
        sizes.insert(0, amount(report.before.virtual_size))
    return f"{' -> '.join(sizes)} {report.format}"


def _policy(report: Report) -> str:
    """Return the policy, and who says so."""
    chosen, requested = report.effective, report.requested
    words = observed.policy(chosen.choice, loaded=chosen.loaded)
    asked, origin = requested.asked, requested.origin
    who = f"flavor {asked.flavor}" if asked and asked.flavor else origin.source
    if who == "default":
        who = f"default of {origin.key}"
    if chosen.strategy != requested.strategy:
        return f"{words} instead of {requested.strategy} ({who})"
    return f"{words} ({who})"


def _refused(report: Report) -> dict[str, str | list[str]]:
    """Return why it isn't all that was asked for, or why nothing was done."""
    reason = report.effective_reason
    known = reason.startswith(AS_REQUESTED) or reason == NOTHING_TO_DO
    why = "" if known or report.unmet else reason
    told = {"because": why}
    if not report.changed and not report.dry_run:
        told = {"done": f"nothing: {why}" if why else "nothing"}
    notes = [] if why else list(report.remarks)
    return {"unmet": report.unmet or "", **told, "note": notes}


def _done(report: Report) -> dict[str, str | list[str]]:
    seen, verdict = report.observed, report.verdict
    assert seen is not None
    assert verdict is not None
    return {
        str(verdict.judgement): observed.promise(verdict, seen),
        **_refused(report),
        **_steps(report),
        "storage": observed.storage(seen),
        "attach": observed.attached(report.attachment),
        "labels": observed.labels(report.labels, asked=report.requested.asked),
    }


def _steps(report: Report) -> dict[str, str | list[str]]:
    """Return what was done to a disk that was there."""
    if report.before is None or not report.changed:
        return {}
    return {"done": [brief.rounded(one) for one in report.steps]}


def _plan(report: Report) -> dict[str, str | list[str]]:
    """Return what would be done, and the space that it takes."""
    peak, promised = amount(report.peak_bytes), amount(report.promised_bytes)
    needs = [f"{peak} while it is done, {promised} in the end"]
    if report.reserved_bytes:
        needs[0] += f", {amount(report.reserved_bytes)} of that reserved at once"
    if report.headroom_bytes:
        needs.append(f"{amount(report.headroom_bytes)} of headroom must stay free")
    nothing = report.mode is Mode.NOTHING
    return {
        "dry run": NOTHING_TO_DO if nothing else "nothing was done; it would",
        **_refused(report),
        "steps": [brief.rounded(one) for one in report.steps],
        "needs": [] if nothing else needs,
        "free": _free(report),
        "labels": observed.labels(report.labels, asked=report.requested.asked),
    }


def _free(report: Report) -> str:
    free, after = report.free_bytes, report.free_after_bytes
    if free is None or after is None:
        return ""
    now, then = apart(free, after)
    return f"{now} now, {then} afterwards"
