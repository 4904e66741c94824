"""``allocpolicy bench``: what each layout of a disk costs, where disks are kept."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from allocpolicy import size
from allocpolicy.bench import document, layouts, measurement, place, plot, regions
from allocpolicy.bench import setting as settings
from allocpolicy.bench.recommendation import Recommendation
from allocpolicy.bench.setting import Setting, Wanted
from allocpolicy.cli.command import Lister
from allocpolicy.cli.options.enumeration import one_of
from allocpolicy.cli.screens.columns import NOTHING, Column, Data, column, sentence
from allocpolicy.cli.streams import aside, failure, progress
from allocpolicy.contract.policy import ChangeLog, Policy
from allocpolicy.errors import InvalidRequest, NotEnoughSpace
from allocpolicy.images.formats import FORMATS
from allocpolicy.operations.inspect_base import inspect_base
from allocpolicy.progress import unwatched
from allocpolicy.record import replace
from allocpolicy.report.base_inspection import BaseInspection
from allocpolicy.storage import directories
from allocpolicy.wording import amount

_SHARE = 10  # what takes more than one part in ten of what is free is asked for
_GIB, _MIB = 1 << 30, 1 << 20
_BY = {"kvm": "KVM", "tcg": "software emulation (TCG), whose rates are not the host's"}


def _rate(name: str, *, heading: str) -> Column:
    """Return a column of MB/s, as dd tells them."""
    return _number(name, heading=heading, divisor=1_000_000)


def _number(name: str, *, heading: str, divisor: float, digits: int = 0) -> Column:
    def cell(row: Data) -> str:
        value = row[name]
        if not isinstance(value, int | float):
            return NOTHING
        return f"{value / divisor:.{digits}f}"

    return replace(column(name, heading=heading, cell=cell), right=True)


_COLUMNS = (
    sentence("layout"),
    _rate("proposed_rate", heading="THEN"),
    _rate("dd_rate", heading="DD"),
    _rate("sequential_rate", heading="SEQ"),
    _number("first_writes", heading="FIRST", divisor=1000, digits=1),
    _number("later_writes", heading="LATER", divisor=1000, digits=1),
    _number("make_seconds", heading="MS", divisor=0.001),
    column("io"),
)


class Bench(Lister):
    """Measure what each layout of a disk costs, on a directory's filesystem.

    The six layouts of the original proposal, those of the strategies, and those of
    other tools. By dd in a guest: DD, and THEN, which is what the proposal measured;
    MB/s. Without a guest, by QEMU: SEQ, sequential writes of 1 MiB, MB/s; scattered
    ones of 4 KiB for the first time, FIRST, and again, LATER, thousands a second, with
    the way of I/O that is fastest. MS is how long a disk takes to be made.
    """

    fields, columns = document.FIELDS, _COLUMNS
    state = "nothing was left behind"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "directory", type=Path, metavar="DIR", help="a directory for disks"
        )
        parser.add_argument(
            "--quick",
            action="store_true",
            help="take less than a minute: less is written, once; a coarse look",
        )
        parser.add_argument(
            "--size",
            metavar="SIZE",
            help=f"what dd writes, a fifth of the disk; {size.HELP} (default: 1G; with"
            " --quick 128M)",
        )
        parser.add_argument(
            "--rounds",
            type=int,
            metavar="N",
            help="how often each layout is measured; medians are shown (default: 3;"
            " with --quick 1)",
        )
        parser.add_argument(
            "--layout",
            action="append",
            default=[],
            metavar="NAME",
            help="measure this layout only; may be repeated; a wrong name lists all",
        )
        parser.add_argument(
            "--base", type=Path, metavar="IMAGE", help="an image that disks start from"
        )
        parser.add_argument(
            "--base-format",
            type=one_of(FORMATS),
            choices=FORMATS,
            help="the image's format (default: found from its content)",
        )
        parser.add_argument(
            "--kernel",
            type=Path,
            metavar="FILE",
            help="the guest's kernel (default: the newest in /boot)",
        )
        parser.add_argument(
            "--no-guest", action="store_true", help="measure without a guest"
        )
        parser.add_argument(
            "--plot", type=Path, metavar="FILE", help="draw a picture: .svg or .png"
        )
        parser.add_argument(
            "--yes",
            action="store_true",
            help="don't ask before more than a tenth of what is free is taken",
        )

    def policy(self, arguments: argparse.Namespace) -> Policy:
        """Return the host's policy; what is measured and removed is no change."""
        return replace(super().policy(arguments), change_log=ChangeLog.NONE)

    def rows(self, arguments: argparse.Namespace) -> Sequence[Data]:
        wanted = _wanted(arguments, policy=self.policy(arguments))
        if arguments.plot:
            plot.check(arguments.plot)
        free = settings.filesystem_of(wanted.directory).free
        for path in place.swept(wanted.directory):
            aside.say(f"removed {path}, which a killed run had left")
        _confirm(wanted, free=free, assumed=arguments.yes)
        with progress.shown(counted=True) as watch:
            result = measurement.measure(wanted, watch=watch)
        rows, chosen = document.rows(result)
        if arguments.plot:
            plot.draw(result, arguments.plot)
        _tell(result.setting, size=wanted.size)
        for row in rows:
            if row["reason"]:
                aside.say(f"{row['layout']}: {row['reason']}")
        self.summary = _summary(chosen)
        return rows


def _wanted(arguments: argparse.Namespace, *, policy: Policy) -> Wanted:
    """Return what is to be measured.

    :raises InvalidRequest: when an argument makes no sense.
    """
    quick = arguments.quick
    written = size.parse(arguments.size) if arguments.size else None
    rounds = arguments.rounds or (1 if quick else 3)
    if arguments.rounds is not None and arguments.rounds < 1:
        raise InvalidRequest(f"--rounds is {arguments.rounds}: at least 1")
    return Wanted(
        directory=directories.absolute(arguments.directory),
        layouts=layouts.chosen(arguments.layout),
        size=regions.checked(written or (128 * _MIB if quick else _GIB)),
        rounds=rounds,
        at_once=4 if quick else 1,
        policy=policy,
        image=_image(arguments),
        kernel=arguments.kernel,
        guest=not arguments.no_guest,
    )


def _image(arguments: argparse.Namespace) -> BaseInspection | None:
    """Return what the image is that disks are to start from.

    :raises ImageError: when it isn't a safe one.
    """
    if arguments.base is None:
        return None
    return inspect_base(arguments.base, declared=arguments.base_format, watch=unwatched)


def _confirm(wanted: Wanted, *, free: int, assumed: bool) -> None:
    """Expect that there is space, and that it may be taken.

    :raises NotEnoughSpace: when there is not.
    :raises InvalidRequest: when somebody says no, or nobody can be asked.
    """
    needed = wanted.needed
    if needed > free:
        reason = "the disks to measure; --size makes them smaller"
        raise NotEnoughSpace(wanted.directory, needed, free, reason)
    if assumed or needed * _SHARE <= free:
        return
    takes = f"up to {amount(needed)} of the {amount(free)} that are free"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidRequest(
            f"{wanted.directory}: it takes {takes}: say --yes, or make it smaller by"
            " --quick or --size"
        )
    failure.put(f"It takes {takes} in {wanted.directory}. Measure? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidRequest("nothing was measured: the answer was not yes")


def _tell(setting: Setting, *, size: int) -> None:
    """Say what the figures are of."""
    aside.say(
        f"{setting.filesystem}, Linux {setting.kernel}, QEMU {setting.qemu}"
        + ("" if setting.direct else "; no O_DIRECT here: through the page cache")
    )
    if setting.accelerator:
        by = _BY[setting.accelerator]
        aside.say(f"dd wrote {amount(size)} in a guest by {by}")
    if setting.no_guest:
        aside.warn(f"no guest ran: {setting.no_guest}")


def _summary(chosen: Recommendation | None) -> str:
    return chosen.sentence if chosen else ""
