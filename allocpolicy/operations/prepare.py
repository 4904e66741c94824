"""Preparing a disk: further ones like it are clones, made as fast as an overlay."""

from __future__ import annotations

import time

from allocpolicy import arguments
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import InvalidRequest
from allocpolicy.operations import provision
from allocpolicy.operations.provision import Order
from allocpolicy.progress import Watcher, heard, unwatched
from allocpolicy.report.prepared import Prepared
from allocpolicy.resolve.policy import in_force
from allocpolicy.storage.failure import named


def prepare(
    order: Order, *, policy: Policy | None = None, watch: Watcher = unwatched
) -> Prepared:
    """Keep a disk in the image cache, of which further ones like it will be clones.

    One that is there already, and is as it should be, stays. The order's destination
    says where the disks will be; nothing gets that name. Who will own them doesn't
    matter, nor do their modes.

    :param policy: the operator's; None: the host's configuration, as `load_policy`
        reads it.
    :raises InvalidRequest: (its subclasses) for what no storage could serve, and for a
        disk that can't be prepared, saying why.
    :raises Unsupported: when the storage shares no blocks, or can't do what it takes.
    :raises NotEnoughSpace: when it doesn't fit, or beside what is kept free.
    :raises Error: for anything else; nothing is left behind.
    """
    arguments.instance(Order, order, "order")
    watch = heard(arguments.call(watch, "watch"))
    policy, started = in_force(policy), time.monotonic()
    if order.dry_run:
        raise InvalidRequest("Order.dry_run: nothing is prepared without being made")
    done = provision.prepared(order, policy=policy, watch=watch)
    path = done.prepared
    assert path is not None
    with named(path, action="look at it"):
        taken = path.stat().st_blocks * 512
    return Prepared(
        path=path,
        changed=done.cloned is None,
        format=done.format,
        virtual_size=done.virtual_size,
        actual_size=taken,
        base=order.base,
        requested=done.requested,
        effective=done.effective,
        reason=done.effective_reason,
        steps=done.steps,
        elapsed=time.monotonic() - started,
    )
