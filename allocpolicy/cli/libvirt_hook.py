"""``allocpolicy libvirt install-hook``, ``uninstall-hook`` and ``status``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.cli.command import Lister, Row, ShowOne
from allocpolicy.cli.options.enumeration import one_of
from allocpolicy.errors import Error
from allocpolicy.libvirt import daemon, health, installation, launch
from allocpolicy.libvirt.daemon import Daemon
from allocpolicy.libvirt.installation import DIRECTORY, NAME
from allocpolicy.libvirt.stub import OnMissing

NOT_IN_FORCE = 1
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

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
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


class UninstallHook(ShowOne):
    """Take allocpolicy's hook out of libvirt's directory; leave all others alone."""

    columns = fields = ("hook", "outcome")
    state = _STATE

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_directory(parser)

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
        directory = _directory(arguments)
        outcome = installation.uninstall(directory)
        return {"hook": str(directory / NAME), "outcome": str(outcome)}


class Status(Lister):
    """Tell whether libvirt's hook is in force, and what it lacks.

    Exit status 1: something is wrong, or the daemon may not know of the hook.
    """

    columns = ("subject", "state", "reason")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_directory(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        found = tuple(health.findings(_directory(arguments)))
        if not health.is_in_force(found):
            self.exit_status = NOT_IN_FORCE
        return [(one.subject, str(one.state), one.reason) for one in found]


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
