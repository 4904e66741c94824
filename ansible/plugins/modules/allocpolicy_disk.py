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
    description:
      - The plan is made and checked against the space that is free.
      - Where allocpolicy is still to be installed, by a task before this one, the task
        is skipped, with a warning.
  diff_mode:
    support: full
    description: Shows policy, options, size, allocation and steps, before and after.
extends_documentation_fragment:
  - ansible.builtin.files
notes:
  - A new disk has its O(mode), V(0600) by default, and its O(owner) from the moment
    that it is there; those that can't be had are refused before anything is done.
  - libvirt gives a disk to QEMU's user while a VM runs; an O(owner) here would take it
    back.
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

import grp
import os
import pwd
import stat
import traceback
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import allocpolicy
except ImportError as failed:
    MISSING: str | None = traceback.format_exc()
    # A package that is there and broken is none that is still to come.
    IS_TO_COME = (
        isinstance(failed, ModuleNotFoundError) and failed.name == "allocpolicy"
    )
else:
    MISSING, IS_TO_COME = None, False

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
PRIVATE = 0o600  # the mode of a new disk
NO_ID = (1 << 32) - 1  # chown(2): leave the ID as it is


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        ARGUMENTS,
        add_file_common_args=True,
        required_together=[("flavors", "flavor")],
        required_by={"base_format": "base"},
        supports_check_mode=True,
    )
    if IS_TO_COME and module.check_mode:  # another task may install it first
        why = "allocpolicy is not in this Python yet: what would be done is unknown"
        module.warn(f"{module.params['path']}: {why}")
        module.exit_json(skipped=True, msg=why)
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
    order = ordered(module.params, access=accessible(module))
    before = recorded(order, policy)
    with allocpolicy.record_changes(policy=policy, command="ansible: allocpolicy_disk"):
        report = allocpolicy.ensure(order, policy=policy, check=module.check_mode)
    return {
        "changed": report.changed,
        "disk": str(report.disk),
        "report": report.as_document(),
        "diff": difference(report, before=before),
    }


def accessible(module: AnsibleModule) -> allocpolicy.Access:
    """Return who may use a new disk; check that what is there can be given to them.

    :raises Error: when it can't, or there is no such user, group or mode.
    """
    given = module.params
    there = os.stat(given["path"]) if os.path.exists(given["path"]) else None
    user = number(given["owner"], "owner", lambda name: pwd.getpwnam(name).pw_uid)
    group = number(given["group"], "group", lambda name: grp.getgrnam(name).gr_gid)
    mode = bits(module, given["mode"], now=there.st_mode if there else PRIVATE)
    if there is not None:
        refuse(there, user=user, group=group, mode=mode)
        return allocpolicy.Access()
    mode = PRIVATE if mode is None else mode
    if user is None and group is None:
        return allocpolicy.Access(mode=mode)
    user = os.geteuid() if user is None else user
    group = group_of_new(given["path"]) if group is None else group
    return allocpolicy.Access(mode=mode, owner=(user, group))


def number(given: Any, kind: str, look_up: Callable[[str], int]) -> int | None:
    """Return the number of a user or a group, by name or number."""
    if given is None:
        return None
    try:
        found = int(given) if str(given).lstrip("-").isdigit() else look_up(given)
    except KeyError as error:
        reason = f"{kind}: there is no {given!r}"
        raise allocpolicy.InvalidRequest(reason) from error
    if not 0 <= found < NO_ID:
        raise allocpolicy.InvalidRequest(f"{kind}: {given} is no valid number")
    return found


def bits(module: AnsibleModule, given: Any, *, now: int) -> int | None:
    """Return a mode, octal or symbolic, as Ansible reads it."""
    if given is None or (isinstance(given, int) and given == stat.S_IMODE(given)):
        return given
    status = os.stat_result((stat.S_IFREG | now, *[0] * 9))
    try:
        symbolic = module._symbolic_mode_to_octal  # noqa: SLF001
        found = int(given, 8) if str(given).isdigit() else symbolic(status, given)
    except Exception as error:  # of Ansible's own reading
        reason = f"mode {given!r}: write it in octal or symbolic form"
        raise allocpolicy.InvalidRequest(reason) from error
    if found != stat.S_IMODE(found):
        raise allocpolicy.InvalidRequest(f"mode {given!r}: there are no such bits")
    return found


def group_of_new(path: str) -> int:
    """Return the group that a new file gets: its directory's, if that is setgid."""
    try:
        directory = os.stat(os.path.dirname(os.path.realpath(path)))
    except OSError:  # which making sure of the disk tells
        return os.getegid()
    return directory.st_gid if directory.st_mode & stat.S_ISGID else os.getegid()


def refuse(
    there: os.stat_result, *, user: int | None, group: int | None, mode: int | None
) -> None:
    """Check that we may give the disk what it is to have, before anything is done."""
    mine, ours = there.st_uid == os.geteuid(), {os.getegid(), *os.getgroups()}
    reason = ""
    if user not in (None, there.st_uid):
        reason = "owner: only root may give files to others"
    elif group not in (None, there.st_gid) and not (mine and group in ours):
        reason = "group: only a file's owner may change it, to a group of his own"
    elif mode not in (None, stat.S_IMODE(there.st_mode)) and not mine:
        reason = "mode: only a file's owner may change it"
    if reason and os.geteuid() != 0:
        raise allocpolicy.InvalidRequest(reason)


def ordered(given: dict[str, Any], *, access: allocpolicy.Access) -> allocpolicy.Order:
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
        access=access,
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
