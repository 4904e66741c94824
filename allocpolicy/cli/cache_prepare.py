"""``allocpolicy cache prepare``: have a disk ready, of which others will be clones."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from allocpolicy.cli import cache, provision
from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.screens import observed, screen
from allocpolicy.cli.screens.columns import Data
from allocpolicy.cli.streams import progress
from allocpolicy.contract.policy import Policy
from allocpolicy.image_cache.location import DEFAULT_NAME
from allocpolicy.operations.prepare import prepare
from allocpolicy.operations.provision import Order
from allocpolicy.report.prepared import Prepared
from allocpolicy.wording import amount


class CachePrepare(ShowOne):
    """Prepare a disk: further ones like it are clones, made as fast as an overlay.

    Such disks are prepared by themselves when the first of them is asked for; this does
    it ahead of time. One that is there stays. It takes a filesystem with reflink, and a
    disk whose storage is not reserved.
    """

    columns = fields = (
        *("path", "changed", "format", "virtual_size", "actual_size", "base"),
        *("strategy", "options", "requested_strategy", "reason", "steps", "elapsed"),
    )
    _done: Prepared
    state = "nothing was left behind"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        cache.add_directory(parser)
        provision.add_disk(parser)

    def show(self, arguments: argparse.Namespace) -> Data:
        policy = self.policy(arguments)
        wanted = _order(arguments, policy=policy)
        with progress.shown() as watch:
            self._done = prepare(wanted, policy=policy, watch=watch)
        self.state = f"the prepared disk {self._done.path} is complete"
        return self._done.as_document()

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        done = self._done
        chosen = done.effective
        yield from observed.head(
            done.path,
            what=f"{amount(done.virtual_size)} {done.format}",
            policy=observed.policy(chosen.choice, loaded=chosen.loaded),
            width=width,
        )
        as_it_was = "it was there already" if not done.changed else ""
        pairs = {
            "done": as_it_was or "prepared: further disks like it are clones",
            "base": str(done.base or ""),
            "storage": f"{amount(done.actual_size)}, what it shares included",
        }
        yield from screen.pairs(pairs, width=width)
        yield f"  {done.elapsed:.1f} s"


def _order(arguments: argparse.Namespace, *, policy: Policy) -> Order:
    """Return what the arguments say of the disk, and nobody who owns it.

    :raises InvalidRequest: (its subclasses) when one of them is wrong.
    """
    place = cache.directory(arguments, policy=policy)
    if place.name == DEFAULT_NAME and policy.image_cache_dir is None:
        place = place.parent  # whose disks it is the cache of
    nobody = {"owner": None, "mode": "0600", "dry_run": False}
    name = f"prepared-for-{os.getpid()}"  # of no file: nothing gets it
    given = vars(arguments) | nobody | {"destination": place / name}
    return provision.order(argparse.Namespace(**given))
