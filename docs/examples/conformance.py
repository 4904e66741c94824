"""The suite in a plugin's own tests, with a law that it waives, and one of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allocpolicy import provision
from allocpolicy.testing import Broken, Place, StrategyConformance


class TestSpace(StrategyConformance):
    """A test for each law."""

    strategy = "space"
    option_sets = [{"reserve": "fallocate"}]
    waived = {"growing-is-in-place": "it copies; see issue 12"}

    @contextmanager
    def set_up(self, directory: Path) -> Iterator[None]:
        """Have what the strategy needs in the directory."""
        (directory / "quota").write_text("40G")
        yield


def has_a_stamp(place: Place) -> None:
    """Hold a strategy to a law of one's own."""
    report = provision(place.order(), policy=place.policy)
    if report.stamp is None:
        raise Broken(f"a disk {place} has no stamp")


assert TestSpace().strategy == "space"
