"""Decide, per flavor, how a VM disk's storage is allocated: the public API.

`provision` makes a disk. Everything that a strategy may use is here, for the bundled
strategies as for anybody's; whatever is not listed in ``__all__`` may change.
"""

from allocpolicy.allocate import Order, provision
from allocpolicy.config import Policy
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
    PlanError,
    PromiseBroken,
    Replan,
    StrategyFailed,
    StrategyNotFound,
    Unsupported,
)
from allocpolicy.execute import Access
from allocpolicy.facts import (
    Allocation,
    BaseImage,
    DiskFormat,
    Facts,
    Headroom,
    Host,
    MappingState,
    Observation,
)
from allocpolicy.flavors import Flavor
from allocpolicy.plan import Mode, Plan, Progress, Step, Target, Watcher
from allocpolicy.qcow2.geometry import (
    automatic_cluster_size,
    fully_allocated_size,
    thin_size_bound,
)
from allocpolicy.report import Report
from allocpolicy.steps import (
    CopyBase,
    CreateQcow2,
    CreateRaw,
    FillHoles,
    Reserve,
    SetNocow,
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

__all__ = [
    "API_VERSION",
    "NO_OPTIONS",
    "Access",
    "Allocation",
    "Attachment",
    "BaseImage",
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
    "Headroom",
    "Host",
    "ImageError",
    "InvalidRequest",
    "Judgement",
    "MappingState",
    "Mode",
    "NotEnoughSpace",
    "Observation",
    "Operation",
    "Order",
    "Plan",
    "PlanError",
    "Policy",
    "Progress",
    "PromiseBroken",
    "Replan",
    "Report",
    "Request",
    "Reserve",
    "SetNocow",
    "Step",
    "Strategy",
    "StrategyFailed",
    "StrategyNotFound",
    "Target",
    "Unsupported",
    "Verdict",
    "Watcher",
    "__version__",
    "automatic_cluster_size",
    "fully_allocated_size",
    "provision",
    "thin_size_bound",
]
