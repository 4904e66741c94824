"""What an instance of Nova's says of a disk: its role, its policy, its way here."""

from __future__ import annotations

import os
import re
from typing import Any

from nova.compute import task_states, vm_states

ROOT = "root"

# Nova's names of disks. Others are its own: disk.config, disk.rescue, disk.info.
ROLES = (
    (re.compile(r"disk"), ROOT),
    (re.compile(r"disk\.local|disk\.eph[0-9]+"), "ephemeral"),
    (re.compile(r"disk\.swap"), "swap"),
)


def disk_role(path: str) -> str | None:
    """Return which disk of its instance a file is; None: none that a flavor decides."""
    name = os.path.basename(path)
    return next((role for names, role in ROLES if names.fullmatch(name)), None)


def extra_specs(instance: Any) -> dict[str, str]:
    """Return the extra specs of an instance's flavor, all of them.

    While a resize ends, the flavor is the new one already; after it was reverted, the
    old one again.
    """
    return dict(instance.flavor.extra_specs or {})


def has_moved(instance: Any) -> bool:
    """Return whether a resize or a cold migration is about to end.

    Nova copied the disk by cp, rsync or scp: its stamp and its reservation are gone.
    """
    return bool(instance.task_state == task_states.RESIZE_FINISH)


def is_left_to_nova(instance: Any) -> bool:
    """Return whether Nova does more with a disk than make it.

    A live migration fills it through QEMU, by what the other host's disk has. What was
    shelved, or comes from another cell, starts from a snapshot, and Nova rebases it
    onto the original image (``LibvirtDriver._rebase_original_qcow2_image``).
    """
    if instance.task_state == task_states.MIGRATING:
        return True
    if instance.vm_state == vm_states.SHELVED_OFFLOADED:
        return True
    original = instance.system_metadata.get("image_base_image_ref")
    return has_moved(instance) and bool(original != instance.image_ref)
