"""Nova's qcow2 images, made and grown under the policy of the instance's flavor."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import nova.conf
from nova import utils
from nova.virt import images
from nova.virt.libvirt import imagebackend
from oslo_utils import fileutils

from allocpolicy_nova_backend import engine
from allocpolicy_nova_backend.instance import (
    ROOT,
    disk_role,
    extra_specs,
    has_moved,
    is_left_to_nova,
)
from allocpolicy_nova_backend.task import Task, Why, Work

CONF = nova.conf.CONF
# Others would be converted, and the copy be kept in the instance's directory. Nova has
# them where force_raw_images is off.
FORMATS = ("raw", "qcow2")

LOG = logging.getLogger(__name__)


class PolicyQcow2(imagebackend.Qcow2):  # type: ignore[misc]
    """A qcow2 disk of an instance: what allocpolicy makes, or else what Nova does.

    Nova's own methods do all that is Nova's: fetching the base image, checking it and
    its size, dates, locks, snapshots. Where neither the flavor nor the operator asks
    for a policy, they do everything.
    """

    #: the operator's strategy for flavors that choose none
    default_strategy = "none"

    def __init__(
        self,
        instance: Any = None,
        disk_name: str | None = None,
        path: str | None = None,
        disk_info_mapping: Any = None,
    ) -> None:
        super().__init__(
            instance=instance,
            disk_name=disk_name,
            path=path,
            disk_info_mapping=disk_info_mapping,
        )
        self._instance = instance
        self._is_being_made = False
        self._is_brought = False

    def cache(
        self,
        fetch_func: Callable[..., object],
        filename: str,
        size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Have the disk there; after a move, bring the copy back to its policy.

        Nova asks for the size of disks that are larger than their image alone: not of
        ephemeral ones, nor of a root disk that is as large as its image.
        """
        was_there, self._is_brought = self.exists(), False
        super().cache(fetch_func, filename, size, *args, **kwargs)
        has_come = was_there and has_moved(self._instance)
        if has_come and not self._is_brought and self._has_policy():
            self._bring(size)

    def create_image(
        self,
        prepare_template: Callable[..., object],
        base: str,
        size: int | None,
        safe: bool = False,  # noqa: FBT001, FBT002  (Nova's signature)
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Make the disk unless it is there, and fetch its base image if that is needed.

        A disk without a backing file doesn't need it: Nova alone would fetch it again.
        """
        if self._can_do_without(base):
            if size:
                self.resize_image(size)
            return
        is_ours = not self.exists() and self._has_policy()
        # Nova formats the others: they start from a file, which is no base image to us.
        self._is_being_made = is_ours and disk_role(self.path) == ROOT
        try:
            super().create_image(prepare_template, base, size, safe, *args, **kwargs)
        finally:
            self._is_being_made, is_made = False, self._is_being_made
        if is_ours and not is_made:
            with fileutils.remove_path_on_error(self.path):
                engine.raise_refusal(engine.do(self._task(Work.BRING, base=base)))

    def verify_base_size(self, base: str, size: int | None, base_size: int = 0) -> None:
        """Check the base image's size; then make the disk, if it is being made.

        ``Qcow2.create_image`` calls this once the base image is there and checked, just
        before it makes an overlay on it, unless a disk is there by then.
        """
        super().verify_base_size(base, size, base_size)
        if self._is_being_made:
            with fileutils.remove_path_on_error(self.path):
                self._make(base, size)

    def resize_image(self, size: int) -> None:
        """Grow the disk under its policy; after a move, bring it back to its policy.

        Nova calls this for each disk that is larger than its base image, with the size
        that it is to have, and does what still remains to be done.
        """
        is_smaller = self.get_disk_size(self.path) < size
        if CONF.resize_fs_using_block_device:  # Nova can grow its filesystem, too
            super().resize_image(size)
        if self._has_policy() and (is_smaller or has_moved(self._instance)):
            self._bring(size)
        super().resize_image(size)

    def _make(self, base: str, size: int | None) -> None:
        """Make the disk from its base image; nobody removes that meanwhile."""
        base_format = images.qemu_img_info(base).file_format
        if base_format not in FORMATS:
            LOG.warning("%s is %s: the disk is Nova's overlay", base, base_format)
            return
        task = self._task(
            Work.MAKE, virtual_size=size or None, base=base, base_format=base_format
        )
        locked = utils.synchronized(
            self._get_lock_name(base), external=True, lock_path=self.lock_path
        )
        engine.raise_refusal(locked(engine.do)(task))

    def _bring(self, size: int | None) -> None:
        """Bring the disk to its policy; one that can't be rewritten stays as it is."""
        self._is_brought = True
        grows = size is not None and self.get_disk_size(self.path) < size
        task = self._task(
            Work.BRING,
            virtual_size=size if grows else None,
            base=self._backing_file(),
        )
        answer = engine.do(task)
        if answer.why is Why.DISK:
            LOG.warning("%s keeps to no policy: %s", self.path, answer.refusal)
        else:
            engine.raise_refusal(answer)

    def _task(self, work: Work, **how: Any) -> Task:
        return Task(
            work=work,
            disk=self.path,
            disk_role=disk_role(self.path) or "",
            flavor=self._instance.flavor.name,
            extra_specs=extra_specs(self._instance),
            **how,
        )

    def _has_policy(self) -> bool:
        """Return whether somebody asks for a policy of a disk that is ours to make."""
        if disk_role(self.path) is None or is_left_to_nova(self._instance):
            return False
        specs = extra_specs(self._instance)
        asks = any(key.startswith("allocpolicy:") for key in specs)
        return asks or self.default_strategy != "none"

    def _can_do_without(self, base: str) -> bool:
        """Return whether the disk is there, and has all data; its base image isn't."""
        if os.path.exists(base) or not self.exists():
            return False
        return self._backing_file() is None

    def _backing_file(self) -> str | None:
        name: str | None = images.qemu_img_info(self.path, "qcow2").backing_file
        return name
