"""What changes in the record on a disk, its stamp, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from allocpolicy.contract.strategy import Choice
from allocpolicy.images.stamp import Asked, Stamp


def lines(before: Stamp | None, after: Stamp | None) -> tuple[str, ...]:
    """Return a line for each change, such as ``record policy none (was space)``.

    None where both say the same: nothing is written then.
    """
    if before == after:
        return ()
    if after is None:
        assert before is not None
        return (f"remove the record of policy {_policy(before)}",)
    told = tuple(_lines(before, after))
    return told or ("record anew what asked for the policy",)


def _lines(before: Stamp | None, after: Stamp) -> Iterator[str]:
    now, then = _in_contrast(before, after)
    if now != then:
        yield _told("policy", now, was=then)
    if before is not None and before.format is not after.format:
        yield _told("format", after.format, was=before.format)
    asked, was = after.asked, before.asked if before else None
    flavor, old_flavor = (one.flavor if one else None for one in (asked, was))
    if flavor is not None and flavor != old_flavor:
        yield _told("flavor", flavor, was=old_flavor)
    elif flavor != old_flavor:
        yield f"remove the record of flavor {old_flavor}"
    yield from _labels(_of(asked), before=_of(was))


def _in_contrast(before: Stamp | None, after: Stamp) -> tuple[str, str | None]:
    """Return both policies; their options where only these differ."""
    now, then = _policy(after), _policy(before) if before else None
    if before is None or now != then:
        return now, then
    for one, other in (
        (after.requested, before.requested),
        (after.effective, before.effective),
    ):
        if one != other:
            return f"{now}{_options(one, other)}", f"{now}{_options(other, one)}"
    return now, then


def _policy(stamp: Stamp) -> str:
    name, effective = stamp.requested.strategy, stamp.effective.strategy
    return name if name == effective else f"{name}, in effect {effective}"


def _options(choice: Choice, other: Choice) -> str:
    """Return the options of a choice that another one has differently."""
    return "".join(
        f" {name}={value}"
        for name, value in choice.options.items()
        if other.options.get(name) != value
    )


def _of(asked: Asked | None) -> Mapping[str, str]:
    return asked.labels if asked else {}


def _labels(labels: Mapping[str, str], *, before: Mapping[str, str]) -> Iterator[str]:
    for name, value in labels.items():
        if before.get(name) != value:
            yield _told("label", f"{name}={value}", was=before.get(name))
    for name in before.keys() - labels.keys():
        yield f"remove the record of label {name}={before[name]}"


def _told(what: str, now: str, *, was: str | None) -> str:
    return f"record {what} {now}{f' (was {was})' if was is not None else ''}"
