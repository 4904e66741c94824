"""How many faults are tried, and the table of those that were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def most(request: pytest.FixtureRequest) -> int | None:
    """Give the number of faults that each command meets; None for all of them."""
    number: str = request.config.getoption("--faults")
    return None if number == "all" else int(number)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was tried, where more was asked for than a few."""
    if config.getoption("--faults") == "3":
        return
    total: Counter[str] = Counter()
    terminalreporter.section("faults")
    for name, tried in sorted(reported(terminalreporter)):
        total.update(tried)
        terminalreporter.line(f"{sum(tried.values()):6} {name}")
    terminalreporter.line("")
    for fault, count in [*total.most_common(), ("in all", total.total())]:
        terminalreporter.line(f"| {fault} | {count:,} |")


def reported(
    terminalreporter: pytest.TerminalReporter,
) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the name of each test that tried faults, and how many of each."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key == "faults" and report.when == "call":
                    yield report.nodeid.partition("[")[2].rstrip("]"), value
