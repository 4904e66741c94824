"""Decide, per flavor, how a VM disk's storage is allocated: the public API.

`provision` makes a disk, `apply` brings one that exists to its policy, `resize` grows
it. Everything that a strategy may use is here, for the bundled strategies as for
anybody's; whatever is not listed in ``__all__`` may change.

Names are imported when they are first used, so that a command pays for what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allocpolicy.allocate import Order, provision
    from allocpolicy.errors import (
        CommandError,
        ConfigError,
        DestinationError,
        DestinationExists,
        DuplicateStrategy,
        Error,
        ExtraSpecError,
        FlavorError,
        ImageError,
        InvalidRequest,
        NotEnoughSpace,
        Overcommitted,
        PlanError,
        PromiseBroken,
        Replan,
        StorageFailed,
        StrategyFailed,
        StrategyNotFound,
        Unsupported,
    )
    from allocpolicy.execute import Access
    from allocpolicy.facts import (
        Allocation,
        BackingFile,
        BaseImage,
        DiskFormat,
        Facts,
        Headroom,
        Host,
        Limits,
        MappingState,
        Observation,
        Use,
    )
    from allocpolicy.flavors import Flavor
    from allocpolicy.plan import Mode, Plan, Progress, Step, Target, Watcher
    from allocpolicy.policy import Policy
    from allocpolicy.qcow2.geometry import (
        automatic_cluster_size,
        fully_allocated_size,
        thin_size_bound,
    )
    from allocpolicy.reallocate import Change, apply, resize
    from allocpolicy.report import Report
    from allocpolicy.resize_steps import (
        GrowQcow2,
        GrowRaw,
        ReservePastEnd,
        growing_steps,
        grown_size,
    )
    from allocpolicy.steps import (
        CopyBase,
        CreateQcow2,
        CreateRaw,
        FillHoles,
        Reserve,
        SetNocow,
        Sharing,
        mapped_data_offset,
    )
    from allocpolicy.storage.extent import ExtentSummary
    from allocpolicy.storage.filesystem import Filesystem
    from allocpolicy.strategy import (
        API_VERSION,
        NO_OPTIONS,
        Attachment,
        DiskRole,
        Judgement,
        Operation,
        Request,
        Strategy,
        Verdict,
    )

__version__ = "0.1.0"

_MODULES = {
    "allocate": ["Order", "provision"],
    "errors": [
        "CommandError",
        "ConfigError",
        "DestinationError",
        "DestinationExists",
        "DuplicateStrategy",
        "Error",
        "ExtraSpecError",
        "FlavorError",
        "ImageError",
        "InvalidRequest",
        "NotEnoughSpace",
        "Overcommitted",
        "PlanError",
        "PromiseBroken",
        "Replan",
        "StorageFailed",
        "StrategyFailed",
        "StrategyNotFound",
        "Unsupported",
    ],
    "execute": ["Access"],
    "facts": [
        "Allocation",
        "BackingFile",
        "BaseImage",
        "DiskFormat",
        "Facts",
        "Headroom",
        "Host",
        "Limits",
        "MappingState",
        "Observation",
        "Use",
    ],
    "flavors": ["Flavor"],
    "plan": ["Mode", "Plan", "Progress", "Step", "Target", "Watcher"],
    "policy": ["Policy"],
    "qcow2.geometry": [
        "automatic_cluster_size",
        "fully_allocated_size",
        "thin_size_bound",
    ],
    "reallocate": ["Change", "apply", "resize"],
    "report": ["Report"],
    "resize_steps": [
        "GrowQcow2",
        "GrowRaw",
        "ReservePastEnd",
        "growing_steps",
        "grown_size",
    ],
    "steps": [
        "CopyBase",
        "CreateQcow2",
        "CreateRaw",
        "FillHoles",
        "Reserve",
        "SetNocow",
        "Sharing",
        "mapped_data_offset",
    ],
    "storage.extent": ["ExtentSummary"],
    "storage.filesystem": ["Filesystem"],
    "strategy": [
        "API_VERSION",
        "NO_OPTIONS",
        "Attachment",
        "DiskRole",
        "Judgement",
        "Operation",
        "Request",
        "Strategy",
        "Verdict",
    ],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "API_VERSION",
    "NO_OPTIONS",
    "Access",
    "Allocation",
    "Attachment",
    "BackingFile",
    "BaseImage",
    "Change",
    "CommandError",
    "ConfigError",
    "CopyBase",
    "CreateQcow2",
    "CreateRaw",
    "DestinationError",
    "DestinationExists",
    "DiskFormat",
    "DiskRole",
    "DuplicateStrategy",
    "Error",
    "ExtentSummary",
    "ExtraSpecError",
    "Facts",
    "Filesystem",
    "FillHoles",
    "Flavor",
    "FlavorError",
    "GrowQcow2",
    "GrowRaw",
    "Headroom",
    "Host",
    "ImageError",
    "InvalidRequest",
    "Judgement",
    "Limits",
    "MappingState",
    "Mode",
    "NotEnoughSpace",
    "Observation",
    "Operation",
    "Order",
    "Overcommitted",
    "Plan",
    "PlanError",
    "Policy",
    "Progress",
    "PromiseBroken",
    "Replan",
    "Report",
    "Request",
    "Reserve",
    "ReservePastEnd",
    "SetNocow",
    "Sharing",
    "Step",
    "StorageFailed",
    "Strategy",
    "StrategyFailed",
    "StrategyNotFound",
    "Target",
    "Unsupported",
    "Use",
    "Verdict",
    "Watcher",
    "__version__",
    "apply",
    "automatic_cluster_size",
    "fully_allocated_size",
    "growing_steps",
    "grown_size",
    "mapped_data_offset",
    "provision",
    "resize",
    "thin_size_bound",
]


def __getattr__(name: str) -> object:
    """Import a public name where it is defined (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
