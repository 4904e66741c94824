"""pytest's plugin: the options of the conformance suite, and its summary.

pytest loads it wherever allocpolicy is installed, so it imports next to nothing. It has
options only where the command names the suite: another's may be called the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocpolicy.testing.outcome import OUTCOME, counts

SUITE = "allocpolicy.testing.conformance"


_ASKED = pytest.StashKey[bool]()


def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Add the options, if the command names the suite."""
    if not any(SUITE in argument for argument in args):
        return
    early_config.stash[_ASKED] = True
    group = parser.getgroup("allocpolicy", "conformance of strategies")
    group.addoption(
        "--strategy", metavar="NAME", default="", help="the strategy, as installed"
    )
    group.addoption(
        "--dir",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="where disks are made; may be repeated, once for each filesystem"
        " (default: where temporary files are)",
    )
    group.addoption(
        "--filesystems",
        metavar="KIND,…",
        type=lambda text: text.split(","),
        default=[],
        help="make disks on new filesystems of these kinds, as root: ext4, xfs, btrfs,"
        " ext2, tmpfs",
    )
    group.addoption(
        "--waive",
        metavar="LAW=REASON",
        action="append",
        default=[],
        help="a law that the strategy is known to break; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse at once what the suite can't be run with.

    :raises UsageError: saying what is wrong.
    """
    if not config.stash.get(_ASKED, False):
        return
    from allocpolicy import Error
    from allocpolicy.testing.conformance import given

    try:
        given(config).check()
    except Error as error:
        raise pytest.UsageError(str(error)) from error


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many laws held, for each strategy that was tried."""
    counted: dict[str, Counter[str]] = {}
    for strategy, outcome in _outcomes(terminalreporter):
        counted.setdefault(strategy, Counter())[outcome] += 1
    if not counted:
        return
    terminalreporter.section("conformance of strategies")
    for strategy, outcomes in sorted(counted.items()):
        terminalreporter.write_line(f"{strategy}: {counts(outcomes)}")


def _outcomes(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[str, str]]:
    """Yield strategy and outcome of each law, those of other processes as well."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                yield from (
                    value for name, value in report.user_properties if name == OUTCOME
                )
