#!/usr/bin/python
"""The Ansible module: one disk of a VM is there, and keeps to its policy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: allocpolicy_disk
short_description: Have a VM's disk, allocated as its policy says
version_added: 0.1.0
description:
  - Creates the disk if it is absent, leaves it alone if it keeps to its policy, brings
    it to the policy if it has drifted or has another, and grows it if it is smaller
    than O(size). No data is lost, and no disk is made smaller.
  - The policy is that of O(strategy), of O(extra_specs) or of a flavor; without any of
    them a disk that exists keeps its own, and another has the host's default,
    C(preallocate_images) of its configuration.
  - It is C(allocpolicy ensure), through the Python API.
author:
  - The maintainers of allocpolicy
requirements:
  - allocpolicy, in the Python that runs the module (C(ansible_python_interpreter))
options:
  path:
    description: The disk. Its directory must be there.
    type: path
    required: true
    aliases: [dest]
  size:
    description:
      - The virtual size, such as V(40G), or bytes. A disk that is smaller is grown; one
        that is larger is an error.
      - Without it, a new disk has the size of O(base), and an existing one keeps its
        own.
    type: str
  base:
    description: The base image that a new disk starts from.
    type: path
  base_format:
    description:
      - The format of the base image; it is found from its content if it is not given.
    type: str
  format:
    description: The format of a new disk, and of an existing one that has no stamp.
    type: str
    choices: [qcow2, raw]
    default: qcow2
  role:
    description: Which of the VM's disks it is; extra specs may differ for each.
    type: str
    choices: [root, ephemeral, swap]
    default: root
  strategy:
    description:
      - The strategy, such as V(none), V(space) or V(performance), or any that is
        installed. It is short for C(allocpolicy:strategy) in O(extra_specs).
    type: str
  extra_specs:
    description:
      - Extra specs as flavors have them, such as C(allocpolicy:performance.data). They
        add to those of the flavor, or override them.
    type: dict
    default: {}
  flavors:
    description: A file of flavors on the host, in YAML or JSON.
    type: path
  flavor:
    description: The flavor in O(flavors) that has the policy.
    type: str
  labels:
    description: Words about the disk for its strategy, such as a tenant.
    type: dict
    default: {}
  config_files:
    description: Files of allocpolicy's configuration, instead of the host's own.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
    description: The plan is made and checked against the space that is free.
  diff_mode:
    support: full
    description: Shows policy, options, size, allocation and steps, before and after.
extends_documentation_fragment:
  - ansible.builtin.files
notes:
  - A new disk has mode V(0600) until O(mode) and O(owner) are given to it. libvirt
    gives a disk to QEMU's user while a VM runs; an O(owner) here would take it back.
  - What is changed is recorded in the host's journal or syslog, as every command does.
"""

EXAMPLES = r"""
- name: Have a disk of 40 GiB whose storage is reserved
  allocpolicy.storage.allocpolicy_disk:
    path: /var/lib/libvirt/images/web1.qcow2
    size: 40G
    base: /var/lib/libvirt/images/debian-12.qcow2
    strategy: space
    mode: "0600"

- name: Have a disk as its flavor says
  allocpolicy.storage.allocpolicy_disk:
    path: /var/lib/libvirt/images/db1.qcow2
    size: 100G
    flavors: /etc/allocpolicy/flavors.yaml
    flavor: m1.fast
"""

RETURN = r"""
disk:
  description: The disk's path, symbolic links resolved.
  type: str
  returned: success
  sample: /var/lib/libvirt/images/web1.qcow2
report:
  description:
    - What was requested, what is in force, and what the disk is, measured; the JSON of
      C(allocpolicy ensure -f json).
  type: dict
  returned: success
error:
  description: The kind of error, by its name in the Python API.
  type: str
  returned: failure
  sample: NotEnoughSpace
exit_status:
  description:
    - The exit status that the command would have; 2 is the request or an image, 3
      space, 4 what this storage can't do, 5 anything else.
  type: int
  returned: failure
  sample: 3
"""

import os
import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import allocpolicy
except ImportError:
    MISSING: str | None = traceback.format_exc()
else:
    MISSING = None

ARGUMENTS = {
    "path": {"type": "path", "required": True, "aliases": ["dest"]},
    "size": {"type": "str"},
    "base": {"type": "path"},
    "base_format": {"type": "str"},
    "format": {"type": "str", "choices": ["qcow2", "raw"], "default": "qcow2"},
    "role": {
        "type": "str",
        "choices": ["root", "ephemeral", "swap"],
        "default": "root",
    },
    "strategy": {"type": "str"},
    "extra_specs": {"type": "dict", "default": {}},
    "flavors": {"type": "path"},
    "flavor": {"type": "str"},
    "labels": {"type": "dict", "default": {}},
    "config_files": {"type": "list", "elements": "path", "default": []},
}
STRATEGY = "allocpolicy:strategy"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        ARGUMENTS,
        add_file_common_args=True,
        required_together=[("flavors", "flavor")],
        required_by={"base_format": "base"},
        supports_check_mode=True,
    )
    if MISSING is not None:
        why = "by it: set ansible_python_interpreter to a Python that has allocpolicy"
        module.fail_json(
            msg=missing_required_lib("allocpolicy", reason=why), exception=MISSING
        )
    try:
        result = ensured(module)
    except allocpolicy.Error as error:
        module.fail_json(
            msg=" ".join(str(error).split()),
            error=type(error).__name__,
            exit_status=error.exit_status,
        )
    # A symbolic link leads to the disk; its own owner and mode are nobody's concern.
    arguments = module.load_file_common_arguments(module.params, path=result["disk"])
    result["changed"] = module.set_fs_attributes_if_different(
        arguments, result["changed"], result["diff"]
    )
    module.exit_json(**result)


def ensured(module: AnsibleModule) -> dict[str, Any]:
    """Have the disk, and return what is told of it.

    :raises Error: as `allocpolicy.ensure` does.
    """
    policy = allocpolicy.load_policy(config_files=module.params["config_files"])
    order = ordered(module.params)
    before = recorded(order, policy)
    with allocpolicy.record_changes(policy=policy, command="ansible: allocpolicy_disk"):
        report = allocpolicy.ensure(order, policy=policy, check=module.check_mode)
    return {
        "changed": report.changed,
        "disk": str(report.disk),
        "report": report.as_document(),
        "diff": difference(report, before=before),
    }


def ordered(given: dict[str, Any]) -> allocpolicy.Order:
    """Return what is wanted of the disk.

    :raises Error: when that is nothing possible.
    """
    specs = texts(given["extra_specs"])
    if given["strategy"] is not None:
        specs[STRATEGY] = given["strategy"]
    flavor = None
    if given["flavor"] is not None:
        flavors = allocpolicy.load_flavors(given["flavors"])
        if given["flavor"] not in flavors:
            known = ", ".join(flavors)
            raise allocpolicy.InvalidRequest(
                f"{given['flavors']} has no flavor {given['flavor']!r}; it has {known}"
            )
        flavor = flavors[given["flavor"]]
    return allocpolicy.Order(
        destination=given["path"],
        virtual_size=given["size"],
        base=given["base"],
        base_format=given["base_format"],
        format=given["format"],
        disk_role=given["role"],
        flavor=flavor,
        extra_specs=specs,
        labels=texts(given["labels"]),
    )


def texts(given: dict[str, Any]) -> dict[str, str]:
    """Return values as extra specs and labels have them; null is one not given."""
    return {name: text(one) for name, one in given.items() if one is not None}


def text(value: object) -> str:
    """Return a value as extra specs have it; YAML has other types as well."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def recorded(order: allocpolicy.Order, policy: allocpolicy.Policy) -> Any:
    """Return the stamp of the disk that is there, or None."""
    if not os.path.lexists(order.destination):
        return None
    try:
        return allocpolicy.inspect(
            order.destination, policy=policy, format=order.format
        ).stamp
    except allocpolicy.Error:  # which making sure of it tells
        return None


def difference(report: allocpolicy.Report, *, before: Any) -> dict[str, Any]:
    """Return what the disk was, and what it is or would be, and by which steps."""
    was, now = report.before, report.observed
    after: dict[str, Any] = {
        "strategy": report.effective.strategy,
        "options": dict(report.effective.options),
        "format": str(report.format),
        "virtual_size": report.virtual_size,
    }
    had: dict[str, Any] = {}
    if was is not None:
        chosen = before.effective if before else None
        had = {
            "strategy": chosen.strategy if chosen else None,
            "options": dict(chosen.options) if chosen else {},
            "format": str(was.format),
            "virtual_size": was.virtual_size,
        }
        if now:  # a plan measures nothing
            had |= {"allocation": str(was.allocation), "mapping": str(was.mapping)}
    if now:
        after |= {"allocation": str(now.allocation), "mapping": str(now.mapping)}
    if report.steps:  # they tell of what a plan changes, and of what isn't above
        after["steps"] = list(report.steps)
    path = str(report.disk)
    return {
        "before_header": path,
        "before": had,
        "after_header": path,
        "after": after if report.changed else dict(had),
    }


if __name__ == "__main__":
    main()
