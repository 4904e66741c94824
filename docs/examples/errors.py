"""Each error: one line, and the exit status of a command that it ends."""

from pathlib import Path

from allocpolicy import (
    BeyondLimits,
    CommandError,
    ConfigError,
    ContractBroken,
    DestinationError,
    DestinationExists,
    DomainError,
    DuplicateStrategy,
    Error,
    ExtraSpecError,
    FailedAfterwards,
    FlavorError,
    FormatUnknown,
    ImageError,
    InvalidRequest,
    NoFreeInodes,
    NotEnoughSpace,
    OutOfReach,
    Overcommitted,
    PlanError,
    PromiseBroken,
    Replan,
    StorageFailed,
    StrategyFailed,
    StrategyNotFound,
    TooMuchWork,
    Unsupported,
    WorkerLost,
)

DISK = Path("/srv/vm/web1.qcow2")
GIB = 1 << 30

# The request, the image or the configuration has to change: exit status 2.
request = (
    InvalidRequest("a disk of 0 bytes holds nothing"),
    ConfigError("on_unsupported = never: it must be fail or fallback"),
    DomainError("it has a document type (DOCTYPE), which may name entities"),
    ExtraSpecError("allocpolicy:strategy", "spce", "did you mean space?"),
    FlavorError(Path("flavors.yaml"), "it has no flavor small"),
    StrategyNotFound("spce", "did you mean space?"),
    PlanError("quota makes raw disks only"),
    ImageError(DISK, "it is not a qcow2"),
    FormatUnknown(DISK, "it has no stamp: say its format"),
    OutOfReach(DISK, "its backing file is not its owner's"),
    BeyondLimits(DISK, "another host may have it"),
    DestinationError(DISK, "/srv/vm is not a directory"),
    DestinationExists(DISK),
)
# There is no room: exit status 3. Sizes are bytes.
space = (
    NotEnoughSpace(DISK, 40 * GIB, 8 * GIB, "and headroom"),
    NoFreeInodes(DISK, 0, 8 * GIB),
    Overcommitted(DISK, 40 * GIB, 8 * GIB, 30 * GIB, 1.7, 1.5),
)
# This storage can't do it, and a fallback may: exit status 4.
storage = (Unsupported(DISK.parent, "it has no fallocate"),)
# Something is at fault: exit status 5.
fault = (
    Error("any other reason"),
    StorageFailed(DISK, "Input/output error"),
    DuplicateStrategy("quota", ("quota 1.0", "acme-quota 2.1")),
    StrategyFailed("quota", "quota 1.0 (quota:Quota)", "plan", "KeyError: 'x'"),
    ContractBroken("peak_bytes is 1.5, not an int"),
    PromiseBroken(DISK, "space", "4096 bytes have no storage"),
    CommandError(("qemu-img", "info"), 1, "Could not open"),
    WorkerLost("a worker was killed by signal 9"),
    TooMuchWork("it has 9 million extents"),
    Replan("another process took the ready-made disk", Path("/srv/pool/1")),
)
# The disk is there, and what came after it failed: exit status 6.
afterwards = (FailedAfterwards(DISK, "the report could not be printed"),)

for status, errors in enumerate((request, space, storage, fault, afterwards), start=2):
    for error in errors:
        assert isinstance(error, Error)
        assert error.exit_status == status
        assert len(str(error).splitlines()) == 1
