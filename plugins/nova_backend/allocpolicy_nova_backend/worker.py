"""What runs beside nova-compute: one disk is made, or brought to its policy.

A process of its own, as qemu-img is one: nova-compute answers while it copies, with
eventlet as with threads. It reads a task from standard input and writes the answer to
standard output.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from allocpolicy import (
    Access,
    Change,
    ConfigError,
    DiskFormat,
    DiskRole,
    Error,
    ExtraSpecError,
    Flavor,
    ImageError,
    InvalidRequest,
    NotEnoughSpace,
    Order,
    PlanError,
    Policy,
    Report,
    StrategyNotFound,
    Unsupported,
    apply,
    load_policy,
    provision,
    resize,
)
from allocpolicy_nova_backend.task import Answer, Task, Why, Work, read_task, written

TRIES = 4

# An error is about what is beside the first of its kinds.
REASONS: tuple[tuple[type[Error], Why], ...] = (
    (NotEnoughSpace, Why.ROOM),
    (Unsupported, Why.ROOM),
    (ConfigError, Why.FAULT),
    (ExtraSpecError, Why.POLICY),
    (StrategyNotFound, Why.POLICY),
    (PlanError, Why.POLICY),
    (InvalidRequest, Why.DISK),
    (Error, Why.FAULT),
)


def main() -> None:
    """Do the task on standard input, and answer on standard output.

    What strategies print goes to standard error.
    """
    task = read_task(sys.stdin.read())
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        output.write(written(answer(task)))


def answer(task: Task) -> Answer:
    """Do a task, and return what became of it."""
    try:
        report = undisturbed(task, policy=load_policy())
    except Error as error:
        why = next(why for kind, why in REASONS if isinstance(error, kind))
        return Answer(why=why, refusal=str(error))
    return Answer(strategy=report.effective.strategy)


class Disturbed(Error):
    """The base image is touched again and again while it is read: ``(reason)``."""


def undisturbed(task: Task, *, policy: Policy) -> Report:
    """Do a task; again, if somebody touched its base image meanwhile.

    Nova does for each instance that starts from it, and libvirt gives it to QEMU's
    user. Both are harmless, but show only in a date where the image isn't ours to hold.

    :raises Disturbed: when it happens each time.
    :raises Error: as `done` does.
    """
    for left in reversed(range(TRIES)):
        before = _date(task.base)
        try:
            return done(task, policy=policy)
        except ImageError as error:
            if _date(task.base) == before:
                raise
            if not left:
                raise Disturbed(str(error)) from error
    raise AssertionError(TRIES)


def done(task: Task, *, policy: Policy) -> Report:
    """Do a task under the flavor of its instance, and return the report.

    :raises Error: as `provision`, `apply` and `resize` do.
    """
    if task.work is Work.MAKE:
        return provision(_order(task), policy=policy)
    change = _change(task)
    brought = apply(replace(change, virtual_size=None), policy=policy)
    if change.virtual_size is None:
        return brought
    # Only a disk that keeps to its policy grows under it.
    return resize(change, policy=policy)


def _order(task: Task) -> Order:
    return Order(
        destination=Path(task.disk),
        virtual_size=task.virtual_size,
        base=None if task.base is None else Path(task.base),
        base_format=task.base_format,
        disk_role=DiskRole(task.disk_role),
        flavor=_flavor(task),
        access=Access(mode=_mode()),
    )


def _change(task: Task) -> Change:
    return Change(
        disk=Path(task.disk),
        format=DiskFormat.QCOW2,  # for one that Nova made, or copied without its stamp
        virtual_size=task.virtual_size,
        disk_role=DiskRole(task.disk_role),
        flavor=_flavor(task),
    )


def _date(path: str | None) -> int | None:
    """Return when a file was last touched, in nanoseconds; None: it isn't there."""
    try:
        return None if path is None else os.stat(path).st_ctime_ns
    except FileNotFoundError:
        return None


def _flavor(task: Task) -> Flavor:
    return Flavor(name=task.flavor, extra_specs=task.extra_specs, source=Path("Nova"))


def _mode() -> int:
    """Return the mode that qemu-img gives a disk.

    Nova reads the disks of running VMs when they are no longer its own.
    """
    mask = os.umask(0)
    os.umask(mask)
    return 0o644 & ~mask


if __name__ == "__main__":
    main()
