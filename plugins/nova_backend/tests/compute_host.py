"""A compute host, as far as Nova's image backend needs one."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nova import objects
from nova.virt.libvirt import imagebackend

from allocpolicy.testing import BaseFile

MIB = 1 << 20
SIZE = 64 * MIB  # of a root disk
IMAGE = "image"  # what Glance calls it, and Nova's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeHost:
    """A host's directory of instances, and an image that Glance would have."""

    instances: Path
    image: BaseFile

    @property
    def base(self) -> Path:
        """Where Nova's cache has the image, once it was fetched."""
        return self.instances / "_base" / IMAGE

    def instance(self, **specs: str) -> Any:
        """Return a new instance whose flavor has these extra specs of ours."""
        ours = {f"allocpolicy:{key}": value for key, value in specs.items()}
        made = objects.Instance(
            uuid=str(uuid.uuid4()),
            flavor=objects.Flavor(
                name="m1.promised", extra_specs={"hw:cpu_policy": "shared"} | ours
            ),
            image_ref=IMAGE,
            system_metadata={"image_base_image_ref": IMAGE},
            vm_state="building",
            task_state="spawning",
            os_type=None,
        )
        (self.instances / made.uuid).mkdir()
        return made

    def disk(self, instance: Any, name: str = "disk") -> Any:
        """Return what Nova has for a disk of an instance: an object of its backend."""
        return imagebackend.Backend(True).by_name(instance, name)

    def fetch(self, target: str, **_: object) -> None:
        """Fetch the image, as Nova's functions do that have it from Glance."""
        shutil.copyfile(self.image.path, target)

    def cache(
        self,
        instance: Any,
        name: str = "disk",
        *,
        size: int | None = SIZE,
        fetch: Callable[..., object] | None = None,
    ) -> Path:
        """Do what the driver does with each disk of an instance that starts.

        :returns: the disk's path.
        """
        disk = self.disk(instance, name)
        disk.cache(
            fetch_func=fetch or self.fetch,
            context=None,
            filename=IMAGE,
            size=size,
            image_id=IMAGE,
        )
        return Path(disk.path)

    def left(self, instance: Any) -> set[str]:
        """Return what is in an instance's directory, but for Nova's list of formats."""
        directory = self.instances / instance.uuid
        return {path.name for path in directory.iterdir()} - {"disk.info"}
