"""The JSON Schemas (draft 2020-12) of what allocpolicy reads and writes.

Each is a file of this package, and for itself: none refers to another.
"""

from __future__ import annotations

from typing import Any

#: the schema of what each command prints with ``-f json``, by the command's words
OF_COMMANDS = {
    "apply": "apply",
    "audit": "audit",
    "bench": "bench",
    "cache list": "cache_list",
    "cache prepare": "prepared",
    "cache prune": "cache_prune",
    "ensure": "report",
    "explain": "explain",
    "flavor validate": "flavor_validate",
    "host capacity": "capacity",
    "host probe": "probe",
    "inspect": "inspection",
    "inspect --base-format": "base_inspection",
    "libvirt apply": "apply",
    "libvirt check": "libvirt_check",
    "libvirt install-hook": "libvirt_hook",
    "libvirt set": "libvirt_domain",
    "libvirt show": "libvirt_domain",
    "libvirt status": "libvirt_status",
    "libvirt uninstall-hook": "libvirt_hook",
    "libvirt unset": "libvirt_domain",
    "nova provider-config": "provider_config",
    "provision": "report",
    "provision --batch": "batch_result",
    "resize": "report",
    "stamp all": "stamp_all",
    "stamp remove": "stamp_remove",
    "stamp set": "stamp_set",
    "stamp show": "stamp",
    "strategy check": "strategy_check",
    "strategy list": "strategy_list",
    "strategy new": "strategy_new",
    "strategy show": "strategy_show",
}


def names() -> tuple[str, ...]:
    """Return the names of all schemas."""
    from importlib.resources import files

    found = (one.name for one in files(__name__).iterdir())
    return tuple(sorted(one[:-5] for one in found if one.endswith(".json")))


def load(name: str) -> dict[str, Any]:
    """Return a schema by its name, such as ``report``.

    :raises FileNotFoundError: when there is none of this name.
    """
    import json
    from importlib.resources import files

    text = files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
