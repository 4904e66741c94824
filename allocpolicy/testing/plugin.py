"""pytest's plugin: the options of the conformance suite, and its summary.

pytest loads it wherever allocpolicy is installed, so it imports next to nothing. It has
options only where the command names the suite: another's may be called the same.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import pytest

from allocpolicy.testing.outcome import OUTCOME, UNNEEDED, counts, unneeded

SUITE = "allocpolicy.testing.conformance"

_GIVEN = "allocpolicy_conformance"  # of config.option, which xdist sends to workers
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--strategy": {
        "metavar": "NAME",
        "default": "",
        "help": "the strategy, as installed",
    },
    "--dir": {
        "metavar": "DIR",
        "action": "append",
        "default": [],
        "help": "where disks are made; may be repeated, once for each filesystem"
        " (default: where temporary files are)",
    },
    "--filesystems": {
        "metavar": "KIND,…",
        "default": "",
        "help": "make disks on new filesystems of these kinds, as root: ext4, xfs,"
        " btrfs, ext2, tmpfs",
    },
    "--waive": {
        "metavar": "LAW=REASON",
        "action": "append",
        "default": [],
        "help": "a law that the strategy is known to break; may be repeated",
    },
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise pytest.UsageError(message)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Iterator[None]:
    """Take the options, if the command names the suite; a project's stay its own.

    A conftest.py that is loaded here may have options that are called the same.
    """
    if not any(SUITE in argument for argument in args):
        return (yield)
    ours = _Parser(add_help=False, allow_abbrev=False)
    for name, described in _OPTIONS.items():
        ours.add_argument(name, **described)
    if not hasattr(early_config.option, _GIVEN):  # a worker has been given them
        given, args[:] = ours.parse_known_args(args)
        setattr(early_config.option, _GIVEN, vars(given))
    result = yield
    group = parser.getgroup("allocpolicy", "conformance of strategies")
    for name, described in _OPTIONS.items():
        with suppress(ValueError):  # a conftest.py has it
            group.addoption(name, **described)  # for pytest --help
    return result


def pytest_configure(config: pytest.Config) -> None:
    """Refuse at once what the suite can't be run with.

    :raises UsageError: saying what is wrong.
    """
    if not hasattr(config.option, _GIVEN) or config.option.help:
        return
    from allocpolicy import Error
    from allocpolicy.testing.entrance import of_options

    try:
        of_options(options(config)).check()
    except Error as error:
        raise pytest.UsageError(str(error)) from error


def options(config: pytest.Config) -> Mapping[str, Any]:
    """Return what the command gives the suite, by the options' names."""
    given: Mapping[str, Any] = getattr(config.option, _GIVEN, {})
    return given


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many laws held, for each strategy that was tried."""
    counted: dict[str, Counter[str]] = {}
    for strategy, outcome in _told(terminalreporter, OUTCOME):
        counted.setdefault(strategy, Counter())[outcome] += 1
    waived: dict[str, list[str]] = {}
    for strategy, law in _told(terminalreporter, UNNEEDED):
        waived.setdefault(strategy, []).append(law)
    if not counted:
        return
    terminalreporter.section("conformance of strategies")
    for strategy, outcomes in sorted(counted.items()):
        terminalreporter.write_line(f"{strategy}: {counts(outcomes)}")
        if strategy in waived:
            terminalreporter.write_line(f"{strategy}: {unneeded(waived[strategy])}")


def _told(
    terminalreporter: pytest.TerminalReporter, what: str
) -> Iterator[tuple[str, str]]:
    """Yield strategy and what is noted of each law, by other processes as well."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                yield from (
                    value for name, value in report.user_properties if name == what
                )
