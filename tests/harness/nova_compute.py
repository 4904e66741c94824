"""A compute node: Nova's own libvirt driver, its database, and a real libvirtd.

What isn't there is Glance: `Glance` stands in for it, with files. Nova's services are
not there either: tests call the driver as nova-compute does.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nova import context, exception, objects
from nova.conf import CONF
from nova.network import model as network_model
from nova.virt import images, virtapi
from nova.virt.libvirt import blockinfo, imagebackend
from nova.virt.libvirt import driver as libvirt_driver

from tests.harness.filesystems import run
from tests.harness.images import MIB
from tests.harness.libvirt_host import LibvirtHost

SIZE = 64 * MIB  # of an image, and of disks of flavors that say nothing else
HOST = "compute.invalid"  # no such name is ever resolved: RFC 6761
ADDRESS = "192.0.2.1"
NO_NETWORK = network_model.NetworkInfo([])
ATTRIBUTES = [
    *("flavor", "info_cache", "metadata", "migration_context", "numa_topology"),
    *("pci_devices", "pci_requests", "resources", "system_metadata", "trusted_certs"),
]


class Glance:
    """Images, by their files; what Nova asks of its client of Glance."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fetched: list[str] = []
        self.uploaded: dict[str, bytes] = {}

    def add(self, *, data: int = 3 * MIB, size: int = SIZE) -> str:
        """Add a raw image with data at its beginning; return its id."""
        name = str(uuid.uuid4())
        with (self.directory / name).open("wb") as file:
            file.write(os.urandom(data))
            file.truncate(size)
        return name

    def remove(self, name: str) -> None:
        """Delete an image."""
        (self.directory / name).unlink()

    def get(self, _: object, name: str, **__: object) -> dict[str, Any]:
        """Return what is known of an image."""
        if not (self.directory / name).exists():
            raise exception.ImageNotFound(image_id=name)
        formats = {"disk_format": "raw", "container_format": "bare"}
        return {"id": name, "name": name, "status": "active", **formats}

    def download(self, _: object, name: str, dest_path: str, **__: object) -> None:
        """Copy an image to a file."""
        self.fetched.append(name)
        self.get(None, name)
        run("cp", "--sparse=always", str(self.directory / name), dest_path)

    def update(self, _: object, name: str, *given: Any, **__: object) -> None:
        """Take a snapshot."""
        self.uploaded[name] = given[-1].read()


class VirtAPI(virtapi.VirtAPI):  # type: ignore[misc]
    """What the driver asks of nova-compute: there are no networks to wait for."""

    @contextmanager
    def wait_for_instance_event(self, *_: object, **__: object) -> Iterator[None]:
        """Wait for no event."""
        yield

    def update_compute_provider_status(self, *_: object, **__: object) -> None:
        """Tell placement nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeNode:
    """A node whose instances are in a directory, on a libvirt host."""

    driver: Any
    host: LibvirtHost
    instances: Path
    glance: Glance
    made: list[Any] = field(default_factory=list)
    context: Any = field(
        default_factory=lambda: context.RequestContext(
            "user", "project", auth_token="token", is_admin=True
        )
    )

    def base(self, image: str) -> Path:
        """Return where Nova's cache has an image."""
        return self.instances / "_base" / hashlib.sha1(image.encode()).hexdigest()

    def flavor(
        self,
        specs: Mapping[str, str],
        *,
        root_gb: int = 0,
        ephemeral_gb: int = 0,
        swap_mb: int = 0,
    ) -> Any:
        """Return a flavor with these extra specs of ours; 0 is the image's size."""
        return objects.Flavor(
            name="m1.promised",
            flavorid=str(uuid.uuid4()),
            id=1,
            memory_mb=64,
            vcpus=1,
            root_gb=root_gb,
            ephemeral_gb=ephemeral_gb,
            swap=swap_mb,
            rxtx_factor=1,
            vcpu_weight=None,
            disabled=False,
            is_public=True,
            extra_specs={f"allocpolicy:{key}": value for key, value in specs.items()},
        )

    def instance(self, image: str, flavor: Any) -> Any:
        """Return a new instance, as nova-compute is asked to build it."""
        made = objects.Instance(
            self.context,
            uuid=str(uuid.uuid4()),
            project_id="project",
            user_id="user",
            flavor=flavor,
            image_ref=image,
            kernel_id="",
            ramdisk_id="",
            system_metadata={"image_disk_format": "raw"},
            metadata={},
            host=HOST,
            vm_state="building",
            task_state="spawning",
            display_name="web",
            hostname="web",
            root_device_name="/dev/vda",
            memory_mb=flavor.memory_mb,
            vcpus=flavor.vcpus,
            root_gb=flavor.root_gb,
            ephemeral_gb=flavor.ephemeral_gb,
            pci_requests=objects.InstancePCIRequests(requests=[]),
            info_cache=objects.InstanceInfoCache(network_info=NO_NETWORK),
        )
        made.create()
        loaded = objects.Instance.get_by_uuid(
            self.context, made.uuid, expected_attrs=ATTRIBUTES
        )
        self.made.append(loaded)
        return loaded

    def disk(self, instance: Any) -> Path:
        """Return an instance's root disk."""
        return self.instances / str(instance.uuid) / "disk"

    def spawn(self, instance: Any) -> None:
        """Make the disks of an instance, and start it."""
        self.driver.spawn(
            self.context,
            instance,
            instance.image_meta,
            injected_files=[],
            admin_password=None,
            allocations={},
            network_info=NO_NETWORK,
            block_device_info=self.devices(),
        )

    def new(self, specs: Mapping[str, str], *, root_gb: int = 0) -> Any:
        """Return an instance of a new image that runs, with these extra specs."""
        flavor = self.flavor(specs, root_gb=root_gb)
        instance = self.instance(self.glance.add(), flavor)
        self.spawn(instance)
        return instance

    def devices(self) -> dict[str, Any]:
        """Return what block devices an instance has besides its root disk: none."""
        return {
            "root_device_name": "/dev/vda",
            "swap": None,
            "ephemerals": [],
            "block_device_mapping": [],
            "image": [],
        }

    def reboot(self, instance: Any) -> None:
        """Reboot an instance hard: its domain is made anew."""
        self.driver.reboot(
            self.context,
            instance,
            NO_NETWORK,
            "HARD",
            block_device_info=self.devices(),
            share_info=objects.ShareMappingList(objects=[]),
        )

    def power_off(self, instance: Any) -> None:
        """Stop an instance at once, as a loss of power does."""
        self.driver.power_off(instance, timeout=0, retry_interval=0)

    def power_on(self, instance: Any) -> None:
        """Start an instance that is off: its domain is made anew."""
        self.driver.power_on(
            self.context, instance, NO_NETWORK, block_device_info=self.devices()
        )

    def resize(self, instance: Any, flavor: Any) -> str:
        """Do what the source of a resize on the same host does; return what it says."""
        said: str = self.driver.migrate_disk_and_power_off(
            self.context,
            instance,
            ADDRESS,
            flavor,
            NO_NETWORK,
            block_device_info=self.devices(),
        )
        instance.old_flavor = instance.flavor
        instance.new_flavor = instance.flavor = flavor
        return said

    def finish_resize(self, instance: Any, disks: str) -> None:
        """Do what the destination of a resize does: the instance runs again."""
        migration = objects.Migration(
            self.context, source_compute=HOST, dest_compute=HOST
        )
        self.driver.finish_migration(
            self.context,
            migration,
            instance,
            disks,
            NO_NETWORK,
            instance.image_meta,
            resize_instance=True,
            allocations={},
            block_device_info=self.devices(),
        )

    def create_image(self, instance: Any) -> None:
        """Do what finishing a resize does first: make the disks that are missing."""
        devices = self.devices()
        found = blockinfo.get_disk_info("qemu", instance, instance.image_meta, devices)
        self.driver._create_image(
            self.context,
            instance,
            found["mapping"],
            block_device_info=devices,
            fallback_from_host=HOST,
        )

    def confirm_resize(self, instance: Any) -> None:
        """Forget what was before the resize."""
        self.driver.confirm_migration(self.context, None, instance, NO_NETWORK)

    def snapshot(self, instance: Any) -> bytes:
        """Return what Glance gets as an instance's snapshot."""
        name = self.glance.add(data=0)
        self.driver.snapshot(self.context, instance, name, lambda **_: None)
        return self.glance.uploaded[name]

    def end(self) -> None:
        """Delete all instances, but for their files."""
        for instance in self.made:
            self.driver.destroy(
                self.context,
                instance,
                NO_NETWORK,
                block_device_info=self.devices(),
                destroy_disks=False,
            )


@contextmanager
def configured(name: str, value: object, *, group: str | None = None) -> Iterator[None]:
    """Have Nova configured otherwise while the body runs."""
    CONF.set_override(name, value, group=group)
    try:
        yield
    finally:
        CONF.clear_override(name, group=group)


@contextmanager
def compute_node(host: LibvirtHost, instances: Path) -> Iterator[ComputeNode]:
    """Yield a node of a host whose daemon runs; Nova is configured for it."""
    glance = Glance(instances.with_name("glance"))
    for directory in (glance.directory, instances):
        directory.mkdir()
    options = {
        (None, "instances_path"): str(instances),
        (None, "host"): HOST,
        (None, "my_ip"): ADDRESS,
        ("libvirt", "virt_type"): "qemu",
        ("libvirt", "cpu_mode"): "none",
        ("libvirt", "connection_uri"): host.uri,
        ("libvirt", "snapshots_directory"): str(instances / "snapshots"),
        ("glance", "api_servers"): ["http://192.0.2.2"],  # which nobody calls
        ("vnc", "enabled"): False,
        ("spice", "enabled"): False,
        ("oslo_concurrency", "lock_path"): str(instances.with_name("locks")),
    }
    clients = (images, imagebackend)
    real = [module.IMAGE_API for module in clients]
    try:
        for (group, name), value in options.items():
            CONF.set_override(name, value, group=group)
        for module in clients:
            module.IMAGE_API = glance
        driver = libvirt_driver.LibvirtDriver(VirtAPI())
        driver._image_api = glance
        yield ComputeNode(driver=driver, host=host, instances=instances, glance=glance)
    finally:
        for module, client in zip(clients, real, strict=True):
            module.IMAGE_API = client
        for group, name in options:
            CONF.clear_override(name, group=group)
