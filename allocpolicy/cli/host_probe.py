"""``allocpolicy host probe``: what a directory's storage can do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.screens import brief, observed, screen
from allocpolicy.cli.screens.columns import Data, column, sentence
from allocpolicy.operations.probe import probe
from allocpolicy.report.probe import Probe, capabilities
from allocpolicy.storage.below import Layer
from allocpolicy.wording import amount


def _why(row: Data) -> str:
    """Return why a strategy can't be had, or guarantees nothing."""
    return brief.reason(str(row["error"] or row["exception"] or ""))


_STRATEGIES = (
    *(column("strategy"), column("format"), column("verdict"), column("guaranteed")),
    sentence("why", field="exception", cell=_why),
)


class HostProbe(ShowOne):
    """Try what a directory's storage can do, and which strategies work on it.

    Nothing is left in the directory.
    """

    columns = fields = (
        *("directory", "filesystem", "key", "block_size", "size", "free"),
        *("copy_on_write", "below", "capabilities", "direct_io", "strategies"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "directory", type=Path, metavar="DIR", help="a directory for disks"
        )

    def show(self, arguments: argparse.Namespace) -> Data:
        self._found = probe(arguments.directory, policy=self.policy(arguments))
        return self._found.as_document()

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        found = self._found
        filesystem = found.capabilities.filesystem
        sizes = f"{amount(filesystem.size)}, {amount(filesystem.free)} free"
        yield from observed.head(
            found.directory,
            what=f"{filesystem.type} on {filesystem.key}",
            policy=sizes,
            width=width,
        )
        yield from screen.pairs(dict(_lines(found)), width=width)
        yield ""
        strategies = shown["strategies"]
        assert isinstance(strategies, list)
        yield from screen.table(_STRATEGIES, strategies, width=width)


def _lines(found: Probe) -> Iterator[tuple[str, str | list[str]]]:
    """Yield what is said of the storage, by the fields that it is of."""
    yield "below", [_layer(one) for one in found.below] or "no device"
    able = capabilities(found.capabilities)
    yield "capabilities", _named(able, can=True) or "none"
    lacking = _named(able, can=False)
    yield "lacking", lacking
    aligned = found.capabilities.direct_io
    said = f"offsets of {aligned.offset}, memory of {aligned.memory}" if aligned else ""
    yield "direct_io", said or "false"


def _named(able: dict[str, bool], *, can: bool) -> str:
    return ", ".join(name for name, has in able.items() if has is can)


def _layer(layer: Layer) -> str:
    said = f"{layer.name}: {layer.kind}"
    return f"{said}; {layer.exception}" if layer.exception else said
