"""A host that refuses a VM's first start is left for another one."""

from __future__ import annotations

from typing import Any

import pytest
from nova import exception, objects
from nova.compute import manager, provider_tree
from nova.network import model as network_model
from nova.scheduler.client import report

from tests.harness.filesystems import leave_free
from tests.harness.images import MIB
from tests.harness.nova_compute import HOST, ComputeNode, configured

pytestmark = pytest.mark.system


class Placement:
    """What the manager asks of placement, of which it gets nothing back."""

    def __init__(self) -> None:
        self.tree = provider_tree.ProviderTree()

    def get_provider_subtree_and_ensure_root(
        self, _: object, uuid: str, name: str, **__: object
    ) -> Any:
        """Return the node's provider, without inventory."""
        if not self.tree.exists(uuid):
            self.tree.new_root(name, uuid)
        return self.tree

    def get_allocations_for_consumer(self, *_: object) -> dict[str, Any]:
        """Return no allocations."""
        return {}

    def get_allocations_for_provider_tree(self, *_: object) -> dict[str, Any]:
        """Return no allocations."""
        return {}

    def update_from_provider_tree(self, *_: object, **__: object) -> None:
        """Tell nobody what the node has."""


class Neutron:
    """What the manager asks of Neutron: the instance has no ports."""

    def get_instance_nw_info(self, *_: object, **__: object) -> Any:
        """Return no ports."""
        return network_model.NetworkInfo([])


@pytest.fixture
def compute(node: ComputeNode, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give Nova's manager of the node, with its own libvirt driver."""
    monkeypatch.setattr(report, "SchedulerReportClient", Placement)
    with configured("compute_driver", "libvirt.LibvirtDriver"):
        found = manager.ComputeManager()
    found.network_api = Neutron()
    service = objects.Service(
        node.context, host=HOST, binary="nova-compute", topic="compute", report_count=0
    )
    service.create()
    found.rt.set_service_ref(service)
    name = found.driver._host.get_hostname()
    found.rt.update_available_resource(node.context, name, startup=True)
    return found


@pytest.mark.filesystems("xfs")
def test_a_refused_start_is_rescheduled(
    node: ComputeNode, compute: Any, request: pytest.FixtureRequest
) -> None:
    """Nova's manager says so with our line as the reason, and nothing is left.

    Where the plugin nova_backend is enabled, libvirt is not even asked.
    """
    leave_free(node.instances, 200 * MIB)
    assert refusal(node, compute).startswith("Hook script execution failed: ")
    request.getfixturevalue("backend")
    prefix = "Insufficient compute resources: allocpolicy: "
    assert refusal(node, compute).startswith(prefix)


def refusal(node: ComputeNode, compute: Any) -> str:
    """Have an instance built for which there is no room; return why it isn't."""
    image = node.glance.add()
    instance = node.instance(image, node.flavor({"strategy": "space"}, root_gb=1))
    instance.host = instance.task_state = None
    instance.save()
    with pytest.raises(exception.RescheduledException) as raised:
        compute._build_and_run_instance(
            node.context,
            instance,
            node.glance.get(None, image),
            injected_files=[],
            admin_password=None,
            requested_networks=objects.NetworkRequestList(
                objects=[objects.NetworkRequest(network_id="none")]
            ),
            security_groups=[],
            block_device_mapping=objects.BlockDeviceMappingList(objects=[]),
            node=compute.driver._host.get_hostname(),
            limits={},
            filter_properties={},
        )
    reason: str = raised.value.kwargs["reason"]
    assert f"{node.disk(instance)}: not enough space" in reason
    assert not node.disk(instance).parent.exists()
    assert instance.name not in node.host.does("list", "--all", "--name").split()
    return reason
