"""``allocpolicy libvirt install-hook``, ``uninstall-hook`` and ``status``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from allocpolicy.cli.command import Lister, ShowOne
from allocpolicy.cli.options.enumeration import one_of
from allocpolicy.cli.screens import observed, screen
from allocpolicy.cli.screens.columns import Data, column, said, sentence
from allocpolicy.errors import Error
from allocpolicy.libvirt import daemon, health, installation, launch
from allocpolicy.libvirt.daemon import Daemon
from allocpolicy.libvirt.health import State
from allocpolicy.libvirt.installation import DIRECTORY, NAME, Outcome
from allocpolicy.libvirt.stub import OnMissing
from allocpolicy.record import asdict

NOT_IN_FORCE = 1
_SITE = {"needed": "with its module site", "not needed": "without its module site"}
_STATE = "the hook is whole or not there: see allocpolicy libvirt status"


class InstallHook(ShowOne):
    """Have libvirt apply the policy of each VM's disks when the VM starts.

    A file is put into libvirt's directory of hooks, or replaced if it is there; other
    hooks are left alone, and nothing is restarted. A daemon that found no hook when it
    was started must be told to look again, which --reload does.
    """

    columns = fields = ("hook", "outcome", "interpreter", "site", "daemon")
    state = _STATE

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_directory(parser)
        parser.add_argument(
            "--on-missing",
            type=one_of(OnMissing),
            choices=list(OnMissing),
            default=OnMissing.PASS,
            help="what becomes of a VM's start when Python or allocpolicy is missing:"
            " it goes on without the policy, or fails (default: %(default)s)",
        )
        _add_reload(parser)

    def show(self, arguments: argparse.Namespace) -> Data:
        directory = _directory(arguments)
        settings = launch.settings(on_missing=arguments.on_missing)
        installation.refuse_distrusted(*settings.files)
        outcome = installation.install(directory, settings)
        return {
            "hook": str(directory / NAME),
            "outcome": str(outcome),
            "interpreter": settings.interpreter,
            "site": "needed" if settings.site else "not needed",
            "daemon": _daemons(directory, reload=arguments.reload),
        }

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        yield from observed.head(
            shown["hook"], what=said(shown["outcome"]), width=width
        )
        runs = f"{shown['interpreter']}, {_SITE[said(shown['site'])]}"
        named = {"runs": runs, "daemon": said(shown["daemon"])}
        yield from screen.pairs(named, width=width)


class UninstallHook(ShowOne):
    """Take allocpolicy's hook out of libvirt's directory; leave all others alone."""

    columns = fields = ("hook", "outcome")
    state = _STATE

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_directory(parser)

    def show(self, arguments: argparse.Namespace) -> Data:
        directory = _directory(arguments)
        outcome = installation.uninstall(directory)
        return {"hook": str(directory / NAME), "outcome": str(outcome)}

    def screen(self, shown: Data, *, width: int) -> Iterable[str]:
        unchanged = shown["outcome"] == Outcome.UNCHANGED
        what = "unchanged: there was none" if unchanged else said(shown["outcome"])
        return observed.head(shown["hook"], what=what, width=width)


class Status(Lister):
    """Tell whether libvirt's hook is in force, and what it lacks.

    Exit status 1: something is wrong, or the daemon may not know of the hook.
    """

    fields = ("subject", "state", "reason")
    columns = (column("state"), column("subject"), sentence("why", field="reason"))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_directory(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        found = tuple(health.findings(_directory(arguments)))
        if not health.is_in_force(found):
            self.exit_status = NOT_IN_FORCE
        return [asdict(one) for one in found]

    def listed(
        self, rows: Sequence[Data], arguments: argparse.Namespace
    ) -> Iterable[Data]:
        """Return all rows; tell what they come to."""
        hook = _directory(arguments) / NAME
        wrong = [said(row["subject"]) for row in rows if row["state"] == State.WRONG]
        self.summary = f"{hook}: in force."
        if wrong:
            self.summary = f"{hook}: not in force: {', '.join(dict.fromkeys(wrong))}."
        elif self.exit_status:
            self.summary = f"{hook}: nothing is wrong; the daemon may not know of it."
        return rows


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hooks-directory",
        type=Path,
        default=DIRECTORY,
        metavar="DIR",
        help="libvirt's directory of hooks for QEMU (default: %(default)s)",
    )


def _add_reload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reload",
        action="store_true",
        help="tell libvirt's daemon to look for hooks (SIGHUP)",
    )


def _directory(arguments: argparse.Namespace) -> Path:
    return Path(os.path.abspath(arguments.hooks_directory))


def _daemons(directory: Path, *, reload: bool) -> str:
    """Return what the daemons know, or what to do that they do."""
    try:
        found = daemon.running(directory)
    except PermissionError:
        return "only root can tell whether it knows of the hook"
    said = [_told(one, directory / NAME, reload=reload) for one in found]
    return "; ".join(said) or "none runs that sees the hook; it looks when it starts"


def _told(found: Daemon, hook: Path, *, reload: bool) -> str:
    subject = f"{found.name} {found.pid}"
    if reload:
        try:
            daemon.tell(found, hook)
        except OSError as error:
            reason = f"the hook is installed, but {subject} can't be told"
            raise Error(f"{reason}: {error.strerror or 'it has ended'}") from error
        return f"{subject} was told"
    if daemon.knows(found, hook) is not None:
        return f"{subject} looks at each start"
    return f"{subject} must be told: {found.command}"
