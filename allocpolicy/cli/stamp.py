"""``allocpolicy stamp show``, ``set`` and ``remove``: the policy recorded on a disk."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.options import choice, disk_format
from allocpolicy.cli.screens import inspected, observed, screen
from allocpolicy.cli.screens.columns import Data
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.images import image_file
from allocpolicy.images import stamp as stamps
from allocpolicy.images.stamp import Stamp
from allocpolicy.operations import stamp
from allocpolicy.record import asdict
from allocpolicy.resolve import labels
from allocpolicy.storage.failure import named

_FIELDS = ("version", "requested", "effective", "format", "asked")


def _add_disk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="DISK", help="the disk")


class StampShow(ShowOne):
    """Show the stamp of a disk: the policy that is recorded on it.

    The disk itself is not looked at; inspect says whether it keeps to its policy.
    """

    columns = fields = _FIELDS

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_disk(parser)

    def show(self, arguments: argparse.Namespace) -> Data:
        path = arguments.path
        with named(path, action="read its stamp"), image_file.opened(path) as image:
            found = stamps.read(image.fd, path=image.path)
        if found is None:
            raise ImageError(path, "it has no stamp")
        self._path, self._stamp = os.path.abspath(path), found
        return found.as_document()

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        return _lines(self._path, self._stamp, width=width)


class StampSet(ShowOne):
    """Record a policy on a disk, without bringing the disk to it.

    Only the stamp is written, also while a virtual machine has the disk open. Whether
    the disk keeps the promise is measured afterwards, and told as the verdict; that it
    has the given format is your word as far as its header doesn't tell. A disk that has
    a stamp keeps the format in it: remove the stamp first if that is wrong. With labels
    alone, the policy stays. apply brings the disk to its policy.
    """

    columns = fields = (*_FIELDS, "changed", "verdict")
    state = "the disk has its old stamp or the new one"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_disk(parser)
        disk_format.add_option(parser)
        choice.add_options(parser)
        choice.add_labels(parser, removes=True)

    def show(self, arguments: argparse.Namespace) -> Data:
        policy = self.policy(arguments)
        selection, given = None, labels.parse(arguments.label)
        if choice.given(arguments, policy=policy) is not None:
            selection = choice.selection(arguments, policy=policy)
        elif not given:
            raise InvalidRequest(
                "choose the policy: --strategy NAME, --flavor or --extra-spec"
            )
        stamping = stamp.Stamping(
            disk=arguments.path,
            selection=selection,
            labels=given,
            format=arguments.disk_format,
            force=arguments.force,
        )
        done = stamp.record(stamping, policy=policy)
        found, changed = done.inspection, bool(done.steps)
        assert found.stamp is not None
        assert found.verdict is not None
        self._path = os.path.abspath(arguments.path)
        self._stamp, self._verdict = found.stamp, found.verdict
        return {
            **found.stamp.as_document(),
            "changed": changed,
            "verdict": asdict(found.verdict),
        }

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        return _lines(self._path, self._stamp, verdict=self._verdict, width=width)


class StampRemove(ShowOne):
    """Remove the stamp of a disk, also one that is malformed.

    The disk's content stays as it is; audit then says that it has no policy.
    """

    columns = fields = ("disk", "outcome")
    state = "the disk has its stamp, or none"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_disk(parser)

    def show(self, arguments: argparse.Namespace) -> Data:
        stamp.remove(arguments.path, policy=self.policy(arguments))
        return {"disk": os.path.abspath(arguments.path), "outcome": "removed"}

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        yield f"{shown['outcome']}  the stamp of {shown['disk']}"


def _lines(
    path: str, found: Stamp, *, width: int, verdict: Verdict | None = None
) -> Iterator[str]:
    """Yield the disk, its format and its policy, and what else the stamp records."""
    policy = inspected.policy_of(found.effective)
    yield from observed.head(
        Path(path), what=str(found.format), policy=policy, width=width
    )
    named = {str(verdict.judgement): verdict.reason} if verdict else {}
    if verdict and verdict.judgement is Judgement.DRIFTED:
        named["do"] = f"allocpolicy apply {inspected.typed(Path(path))}"
    yield from screen.pairs({**named, **inspected.asked(found)}, width=width)
