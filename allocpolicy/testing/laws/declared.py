"""Laws about what a strategy says of itself: its summary, its options, its module."""

from __future__ import annotations

import json
from typing import cast

from allocpolicy import Choice, DiskFormat, Stamp
from allocpolicy.contract.read_only import thawed
from allocpolicy.registry import option_values, recorded_options
from allocpolicy.testing.import_cost import LIMIT, import_cost
from allocpolicy.testing.law import Broken, one_line, pure, require
from allocpolicy.testing.subject import Options, Subject, written

STAMP_LIMIT = 4096  # bytes of an xattr that ext4 stores
_UNKNOWN = "no-such-option"


@pure("summary-is-one-line", "The summary is one line: a cell of `strategy list`.")
def summary_is_one_line(subject: Subject) -> None:
    summary: object = subject.strategy.summary
    require(one_line(summary), f"the summary is {summary!r}")


@pure("has-a-distribution", "It comes from one distribution, which has a version.")
def has_a_distribution(subject: Subject) -> None:
    found = subject.loaded.found
    for what in ("distribution", "version"):
        require(getattr(found, what) != "unknown", f"its {what} is unknown")


@pure("options-are-described", "Each option says in one line what it is.")
def options_are_described(subject: Subject) -> None:
    for name, option in subject.loaded.options_schema["properties"].items():
        said = option.get("description")
        require(one_line(said), f"option {name}: its description is {said!r}")


@pure("unknown-options-are-refused", "A misspelt option is an error, never ignored.")
def unknown_options_are_refused(subject: Subject) -> None:
    try:
        option_values.complete(
            {_UNKNOWN: 1}, options_schema=subject.loaded.options_schema
        )
    except ValueError:
        return
    raise Broken('add "additionalProperties": False to options_schema')


@pure(
    "options-survive-the-stamp",
    "Options are the same after a stamp, and after `migrate` from any version.",
)
def options_survive_the_stamp(subject: Subject) -> None:
    for options in subject.option_sets:
        for version in (subject.loaded.found.version, "0.0.1", None):
            read = _recorded(subject, options, version=version)
            today = recorded_options.of_today(read, loaded=subject.loaded)
            told = f"{dict(options)} of version {version} became {dict(today)}"
            require(today == options, told)


def _recorded(subject: Subject, options: Options, *, version: str | None) -> Choice:
    """Return what a stamp has of a choice, once it was written and read."""
    found = subject.loaded.found
    choice = Choice(
        strategy=subject.name,
        options=cast(Options, thawed(options)),
        distribution=found.distribution,
        version=version,
    )
    stamp = Stamp(requested=choice, effective=choice, format=DiskFormat.QCOW2)
    text = json.dumps(stamp.as_document())
    require(len(text) <= STAMP_LIMIT, f"a stamp of {len(text)} bytes does not fit")
    recorded = json.loads(text)["effective"]
    return Choice(**recorded)


@pure(
    "options-can-be-written",
    "Every value can be given as an extra spec, which is a string.",
)
def options_can_be_written(subject: Subject) -> None:
    for options in subject.option_sets:
        raw = {name: written(value) for name, value in options.items()}
        try:
            read = option_values.convert(
                raw, options_schema=subject.loaded.options_schema
            )
        except option_values.OptionError as error:
            raise Broken(f"{error}, though it is written so") from error
        require(read == options, f"{dict(options)} is read as {read}")


@pure("import-is-quick", f"Importing it takes under {LIMIT} ms beyond allocpolicy.")
def import_is_quick(subject: Subject) -> None:
    cost = import_cost(subject.loaded.found)
    require(cost < LIMIT, f"importing it takes {cost} ms")
