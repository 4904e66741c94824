"""The plugin nova_backend in Nova's own driver, with our hook behind it."""

from __future__ import annotations

import pytest
from nova.compute import task_states

from tests.harness.nova_compute import ComputeNode
from tests.nova.test_disks import RESERVED, meets

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.filesystems("xfs")
def test_a_new_disk_keeps_to_its_policy_before_it_is_started(node: ComputeNode) -> None:
    """The hook has nothing to do: the file stays the one that Nova made."""
    instance = node.instance(node.glance.add(), node.flavor(RESERVED))
    node.create_image(instance)
    disk = node.disk(instance)
    made = disk.stat().st_ino
    assert meets(disk)
    node.spawn(instance)
    assert disk.stat().st_ino == made
    assert meets(disk)


@pytest.mark.filesystems("xfs")
def test_a_resize_ends_with_the_promise_kept(node: ComputeNode) -> None:
    """The copy has lost it, and has it again before the instance is started."""
    instance = node.instance(node.glance.add(), node.flavor(RESERVED))
    instance.system_metadata["image_base_image_ref"] = instance.image_ref
    node.spawn(instance)
    said = node.resize(instance, node.flavor(RESERVED, root_gb=1))
    instance.task_state = task_states.RESIZE_FINISH
    node.create_image(instance)
    disk = node.disk(instance)
    made = disk.stat().st_ino
    assert meets(disk)
    node.finish_resize(instance, said)
    assert disk.stat().st_ino == made
    assert meets(disk)
