"""The order that a line of a batch gives, beside what the command line gives to all."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from allocpolicy import arguments, size
from allocpolicy.cli.options import access, choice
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import ExtraSpecError, InvalidRequest
from allocpolicy.images.formats import FORMATS
from allocpolicy.operations.provision import Order
from allocpolicy.record import dataclass
from allocpolicy.resolve import flavors, labels
from allocpolicy.resolve.extra_specs import STRATEGY
from allocpolicy.resolve.flavors import Flavor
from allocpolicy.wording import choices, named

KEYS = (
    *("disk", "size", "base", "base_format", "format", "role"),
    *("flavor", "strategy", "extra_specs", "owner", "mode"),
)
Value = TypeVar("Value")
Fit = Callable[[object, str], Value]  # of a value and its key


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the command line gives to every disk of a batch; a line has the last word.

    ``flavors`` are those of the file that is given, by their names.
    """

    virtual_size: int | None
    base: Path | None
    base_format: str | None
    format: DiskFormat
    disk_role: DiskRole
    flavors_file: Path | None
    flavors: Mapping[str, Flavor]
    flavor: Flavor | None
    extra_specs: Mapping[str, str]
    labels: Mapping[str, str]
    owner: str | None
    mode: str
    dry_run: bool


def defaults(given: argparse.Namespace) -> Defaults:
    """Return what the arguments say of every disk.

    :raises InvalidRequest: (its subclasses) when one of them is wrong.
    """
    access.parse(owner=given.owner, mode=given.mode)  # now, rather than in each line
    return Defaults(
        virtual_size=None if given.size is None else size.parse(given.size),
        base=given.base and given.base.absolute(),
        base_format=given.base_format,
        format=given.disk_format,
        disk_role=given.disk,
        flavors_file=given.flavors,
        flavors=choice.recorded(given) or {},
        flavor=choice.flavor(given, alone=True),
        extra_specs=choice.extra_specs(given),
        labels=labels.parse(given.label),
        owner=given.owner,
        mode=given.mode,
        dry_run=given.dry_run,
    )


def of(given: Mapping[str, object], beside: Defaults) -> Order:
    """Return the order of a line.

    :raises InvalidRequest: (its subclasses) when it can't be one, naming the key.
    """
    for key in given:
        if key not in KEYS:
            raise InvalidRequest(f"{named(key)} is no key; {_choices(KEYS, key)}")

    def value(key: str, fit: Fit[Value], otherwise: Value) -> Value:
        found = given.get(key)
        return otherwise if found is None else fit(found, key)

    if given.get("disk") is None:
        raise InvalidRequest("it has no disk: give the path of the disk to create")
    return Order(
        destination=_absolute(given["disk"], "disk"),
        virtual_size=value("size", arguments.size, beside.virtual_size),
        base=value("base", _absolute, beside.base),
        base_format=value("base_format", _base_format, beside.base_format),
        format=value("format", _format, beside.format),
        disk_role=value("role", _role, beside.disk_role),
        flavor=value("flavor", lambda one, _: _flavor(one, beside), beside.flavor),
        extra_specs=_extra_specs(given, beside),
        labels=beside.labels,
        access=access.parse(
            owner=value("owner", arguments.text, beside.owner),
            mode=value("mode", _mode, beside.mode),
        ),
        dry_run=beside.dry_run,
    )


def _choices(words: tuple[str, ...], given: object) -> str:
    return choices(words, nearest_to=str(given))


def _absolute(value: object, key: str) -> Path:
    """Return a path that is the same wherever the batch is read."""
    path = arguments.path(value, key)
    if not path.is_absolute():
        raise InvalidRequest(f"{key} is {named(value)}: give an absolute path")
    return path


def _base_format(value: object, key: str) -> str:
    text = arguments.text(value, key)
    if text not in FORMATS:
        raise InvalidRequest(f"{key} is {named(text)}; {_choices(FORMATS, text)}")
    return text


def _format(value: object, key: str) -> DiskFormat:
    return arguments.member(DiskFormat, value, key)


def _role(value: object, key: str) -> DiskRole:
    return arguments.member(DiskRole, value, key)


def _mode(value: object, key: str) -> str:
    """Return mode bits; YAML reads 0640 as a number, and JSON has no such numbers."""
    if not isinstance(value, str):
        arguments.refuse(value, key, 'octal digits in quotes, such as "0640"')
    return value


def _flavor(value: object, beside: Defaults) -> Flavor:
    name = arguments.text(value, "flavor")
    if beside.flavors_file is None:
        raise InvalidRequest(f"flavor is {named(name)}: it needs --flavors FILE")
    return flavors.chosen(beside.flavors, name=name, path=beside.flavors_file)


def _extra_specs(given: Mapping[str, object], beside: Defaults) -> Mapping[str, str]:
    """Return the extra specs; the line's are over the command line's.

    :raises ExtraSpecError: when a line names its strategy twice.
    """
    specs = given.get("extra_specs")
    own = (
        {} if specs is None else arguments.mapping(specs, "extra_specs", arguments.text)
    )
    strategy = given.get("strategy")
    if strategy is not None:
        if STRATEGY in own:
            reason = "strategy gives it as well; leave one of them out"
            raise ExtraSpecError(STRATEGY, own[STRATEGY], reason)
        own[STRATEGY] = arguments.text(strategy, "strategy")
    return {**beside.extra_specs, **own}
