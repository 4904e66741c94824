"""``allocpolicy audit``: every disk against its policy."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from allocpolicy.cli.command import Lister
from allocpolicy.cli.options import choice, disk_format, disk_map, disk_paths, number
from allocpolicy.cli.options.argument_path import path_of
from allocpolicy.cli.screens import brief, columns, formats
from allocpolicy.cli.screens.columns import Column, Data, column, said, sentence, size
from allocpolicy.cli.streams import aside, progress
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Judgement
from allocpolicy.errors import DestinationError, ImageError, InvalidRequest
from allocpolicy.images import image_file
from allocpolicy.operations.attached import Attached
from allocpolicy.operations.audit import audit
from allocpolicy.operations.given import Given
from allocpolicy.record import replace
from allocpolicy.report.audit import Audit as Report
from allocpolicy.resolve import expected


class Audit(Lister):
    """Judge disks by their policies: meets, drifted, unverifiable, and why.

    Uncovered: guests write to overlays on the disk, such as external snapshots, which
    have no policy.

    People see the disks that don't meet, and one that is named alone; formats for
    programs have all of them. A disk's policy is the effective one in its stamp. A
    policy that is given here is for disks without a stamp and needs --disk-format;
    it never overrides a stamp. Files that look like disks and have no policy have
    rows, too. A last line on stderr sums up; -q omits it. Outdated: the disk is as
    its stamp says, and its flavor in --flavors, or the operator's option, has
    changed since. Pending: it has less than its stamp requests, and keeps to that.
    Exit status 1: a disk has drifted, is uncovered, outdated or missing, or there
    are fewer than --expect N; 2: a file or a directory can't be read; 4: not one
    disk could be judged.
    """

    _shortage: str | None = None
    fields = (
        *("disk", "strategy", "mapping", "allocation", "verdict", "reason"),
        *("chain_length", "dirty", "leaked_bytes", "shared_bytes", "requested"),
        *("virtual_size", "actual_size"),
    )
    columns: ClassVar[tuple[Column, ...]] = (
        column("verdict"),
        column("policy", field="strategy"),
        size("size", field="virtual_size"),
        size("taken", field="actual_size"),
        sentence(
            "why", field="reason", cell=lambda row: brief.reason(said(row["reason"]))
        ),
        column("disk"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        disk_paths.add_argument(parser, "paths", metavar="PATH", nargs="*")
        disk_format.add_option(parser)
        disk_map.add_option(parser)
        parser.add_argument(
            "--textfile",
            type=Path,
            metavar="FILE",
            help="write metrics (OpenMetrics) for node_exporter's textfile collector",
        )
        parser.add_argument(
            "--expect",
            type=_expected,
            action="append",
            default=[],
            metavar="FILE|N",
            help="disks that must exist and have a policy: a path on each line, or JSON"
            " or YAML: a list of paths, or an object of paths and strategies; or how"
            " many disks must be there, at least (a file of that name: ./7)",
        )
        parser.add_argument(
            "--libvirt",
            metavar="URI",
            help="look at every disk of every domain, by the policy of its definition,"
            " or else by its stamp",
        )
        parser.add_argument(
            "--require-stamp",
            action="store_true",
            help="exit with 1 also where a file that looks like a disk has no policy",
        )
        parser.add_argument(
            "--all",
            action="store_true",
            help="also list base images, prepared disks and ISO images, which need no"
            " policy",
        )
        parser.add_argument(
            "--jobs",
            type=number.at_least_one,
            metavar="N",
            help="how many processes look at disks (default: one per core)",
        )
        parser.add_argument(
            "--read-all",
            action="store_true",
            help="read the tables of all disks, also of those that haven't changed"
            " since the last audit or have the blocks of a disk that was read",
        )
        choice.add_options(parser)

    def rows(self, arguments: argparse.Namespace) -> list[dict[str, object]]:
        self._check_paths(arguments.paths)
        policy = self.policy(arguments)
        mapped = disk_map.read(arguments, policy=policy)
        given = mapped or _given(arguments, policy=policy)
        if not (arguments.paths or arguments.expect or arguments.libvirt):
            raise InvalidRequest(
                "name a disk or a directory, or --expect FILE, or --libvirt URI"
            )
        textfile = arguments.textfile
        if textfile is not None:
            _check_directory(textfile)
        attached = self._attached(arguments.libvirt, policy=policy)
        with progress.shown(counted=True) as watch:
            found = audit(
                arguments.paths,
                policy=policy,
                given=given,
                flavors=choice.recorded(arguments),
                expected=_named(arguments.expect),
                attached=attached,
                jobs=arguments.jobs,
                read_all=arguments.read_all,
                watch=watch,
            )
        found = replace(found, expected=_at_least(arguments.expect))
        if textfile is not None:
            from allocpolicy.report import metrics

            metrics.write(textfile, found)
        status = found.exit_status(require_stamp=arguments.require_stamp)
        self.exit_status = self.exit_status or status
        self.summary, self._shortage = found.summary, found.shortage
        if arguments.formatter == formats.SCREEN:
            self.summary = _summary(found, arguments=arguments)
        seen = (row.disk for row in (*found.rows, *found.passed_over))
        disk_map.tell_unused(mapped, seen)
        return found.as_document(whole=arguments.all)

    def _attached(self, uri: str | None, *, policy: Policy) -> dict[Path, Attached]:
        """Return the disks of libvirt's domains; tell which domains can't be read."""
        if uri is None:
            return {}
        from allocpolicy.libvirt import connection, fleet

        with connection.opened(uri) as host:
            host.refuse_remote()
            return fleet.attached(host, policy=policy, failed=self.fail)

    def _check_paths(self, paths: Sequence[Path]) -> None:
        """Tell every path that does not exist.

        :raises ImageError: for the last of them.
        """
        problems = []
        for path in paths:
            try:
                image_file.resolve(path)
            except ImageError as error:
                problems.append(error)
        for problem in problems[:-1]:
            self.fail(problem)
        if problems:
            raise problems[-1]

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
    ) -> int:
        """Print the rows and what they come to, and tell of disks that lack."""
        status = super().produce_output(parsed_args, column_names, data)
        if self._shortage is not None:
            aside.tell(self._shortage)
        return status

    def shown(self, arguments: argparse.Namespace) -> tuple[Column, ...]:
        disk = columns.path("disk", named=arguments.paths)
        return (*self.columns[:-1], disk)

    def listed(
        self, rows: Sequence[Data], arguments: argparse.Namespace
    ) -> Iterable[Data]:
        """Return the disks that don't meet; all of them with --all, or one by name."""
        if _shows_all(arguments):
            return rows
        return [row for row in rows if row["verdict"] != Judgement.MEETS.value]


def _shows_all(arguments: argparse.Namespace) -> bool:
    """Return whether people are shown the disks that meet, too."""
    paths = arguments.paths
    return arguments.all or (len(paths) == 1 and not paths[0].is_dir())


def _summary(found: Report, *, arguments: argparse.Namespace) -> str:
    """Return what the audit comes to, as the last line of the screen."""
    paths = arguments.paths
    where = f"{paths[0]}: " if len(paths) == 1 else ""
    hidden = found.counts[Judgement.MEETS.value] and not _shows_all(arguments)
    rest = ". --all shows those that meet." if hidden else "."
    return f"{where}{found.summary}{rest}"


def _check_directory(textfile: Path) -> None:
    """Check that a file can have the directory, before there is an audit to write.

    :raises DestinationError: when it can't.
    """
    try:
        there = stat.S_ISDIR(os.stat(textfile.parent).st_mode)
    except FileNotFoundError:
        there = False
    except OSError as error:
        reason = f"its directory: {error.strerror}"
        raise DestinationError(textfile, reason) from error
    if not there:
        raise DestinationError(textfile, "its directory does not exist")


_DIGITS = 9


def _expected(text: str) -> int | Path:
    if not text.isdecimal():
        return path_of(text)
    if len(text) > _DIGITS:
        raise argparse.ArgumentTypeError(
            f"{text[:_DIGITS]}…: no host has so many disks"
        )
    return int(text)


def _at_least(expects: Iterable[int | Path]) -> int:
    return max((one for one in expects if isinstance(one, int)), default=0)


def _named(expects: Iterable[int | Path]) -> dict[Path, str | None]:
    """Return the disks that files name, and their strategies."""
    found: dict[Path, str | None] = {}
    for one in expects:
        if isinstance(one, Path):
            found |= expected.read(one)
    return found


def _given(arguments: argparse.Namespace, *, policy: Policy) -> Given | None:
    chosen = choice.given(arguments, policy=policy, alone=True)
    if chosen is None:
        if arguments.disk_format is not None:
            raise InvalidRequest(
                "--disk-format is for disks without a stamp, which also need a policy:"
                " --strategy NAME, --flavor or --extra-spec"
            )
        return None
    if arguments.disk_format is None:
        raise InvalidRequest(
            "a policy is for disks without a stamp; give their format as well:"
            " --disk-format"
        )
    return Given(choice=chosen, format=arguments.disk_format, force=arguments.force)
