"""What a strategy serves: its plans are asked for, with facts that nobody measured.

Planning does no I/O, so no disk and no storage is touched: what is shown is what the
strategy answers for typical storage, disks and base images, with its default options.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from allocpolicy.contract.facts import Allocation, DiskFormat, MappingState, Observation
from allocpolicy.contract.strategy import Operation, Request
from allocpolicy.errors import Error, StrategyFailed
from allocpolicy.record import dataclass, replace
from allocpolicy.registry import call, option_values
from allocpolicy.registry.installed import Loaded
from allocpolicy.testing import records
from allocpolicy.wording import bounded

_GROWN = 16 << 30  # bytes; the disk had 10 GiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Whether an operation on disks of a format is served, and where.

    ``filesystems`` and ``starts`` (of new disks: empty, or a base image) are those for
    which there is a plan. ``reason`` is what the strategy says where there is none.
    """

    operation: Operation
    format: DiskFormat
    filesystems: tuple[str, ...]
    starts: tuple[str, ...]
    reason: str | None

    @property
    def served(self) -> bool:
        """Whether there is a plan for some storage."""
        return bool(self.filesystems)

    @property
    def limits(self) -> str:
        """Return where alone it is served; empty: everywhere."""
        return ", ".join(self._limits())

    def _limits(self) -> Iterator[str]:
        if len(self.starts) == 1:
            how = "on" if "base" in self.starts else "without"
            yield f"only {how} a base image"
        if len(self.filesystems) < len(records.FILESYSTEMS):
            yield f"on {', '.join(self.filesystems)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A request, and what is known of the disk and its storage."""

    filesystem: str
    request: Request
    start: str = ""
    current: Observation | None = None


def of(loaded: Loaded) -> tuple[Serving, ...]:
    """Return what the strategy serves, by operation and format."""
    # Empty, but there: a strategy may look at what is in the disk's directory.
    with tempfile.TemporaryDirectory() as directory:
        return tuple(
            _asked(loaded, Path(directory), operation=operation, format=format)
            for operation, format in itertools.product(Operation, DiskFormat)
        )


def told(served: Sequence[Serving]) -> list[str]:
    """Return what is served in a sentence for each limit, and what isn't, and why."""
    said = []
    for limits in _each(one.limits for one in served if one.served):
        ones = [one for one in served if one.served and one.limits == limits]
        said.append("; ".join(_of_formats(ones)) + (f": {limits}" if limits else ""))
    refused = [one for one in served if not one.served]
    for reason in _each(str(one.reason) for one in refused):
        ones = [one for one in refused if str(one.reason) == reason]
        said.append(f"not {'; '.join(_of_formats(ones))}: {reason}")
    return said


def _of_formats(served: Sequence[Serving]) -> Iterator[str]:
    """Yield ``provision, apply of qcow2, raw``: operations with the same formats."""
    formats = {
        operation: tuple(one.format for one in served if one.operation is operation)
        for operation in Operation
    }
    for these in dict.fromkeys(formats.values()):
        if these:
            operations = (one for one, has in formats.items() if has == these)
            yield f"{', '.join(operations)} of {', '.join(these)}"


def _asked(
    loaded: Loaded, directory: Path, *, operation: Operation, format: DiskFormat
) -> Serving:
    served, reasons = [], []
    for case in _cases(operation, format):
        try:
            _serve(loaded, case, directory=directory)
        except Error as error:
            failed = isinstance(error, StrategyFailed)
            said = str(error) if failed else error.reason
            reasons.append(bounded(said.replace(str(directory), "DIR")))
        else:
            served.append(case)
    return Serving(
        operation=operation,
        format=format,
        filesystems=_each(one.filesystem for one in served),
        starts=_each(one.start for one in served if one.start),
        reason=None if served else reasons[0],
    )


def _cases(operation: Operation, format: DiskFormat) -> Iterator[_Case]:
    if operation is Operation.PROVISION:
        bases = {"empty": None, "base": records.base_image()}
        for filesystem, (start, base) in itertools.product(
            records.FILESYSTEMS, bases.items()
        ):
            request = records.request(format, base=base)
            yield _Case(filesystem=filesystem, request=request, start=start)
        return
    grown = {"virtual_size": _GROWN} if operation is Operation.RESIZE else {}
    for filesystem, mapping, allocation in itertools.product(
        records.FILESYSTEMS, MappingState, Allocation
    ):
        current = records.observation(format, mapping=mapping, allocation=allocation)
        request = records.change_of(current, **grown)
        yield _Case(filesystem=filesystem, request=request, current=current)


def _serve(loaded: Loaded, case: _Case, *, directory: Path) -> None:
    """Ask for a plan; in a trial, if there is none for lack of something scarce.

    :raises Error: when there is none.
    """
    try:
        _plan(loaded, case, directory=directory)
    except Error:
        tried = replace(case, request=replace(case.request, trial=True))
        with contextlib.suppress(Error):  # what it says otherwise is what matters
            return _plan(loaded, tried, directory=directory)
        raise


def _plan(loaded: Loaded, case: _Case, *, directory: Path) -> None:
    """Ask for a plan.

    :raises Error: when there is none.
    """
    request = replace(case.request, destination=directory / "disk")
    current, base = case.current, request.base
    options = option_values.complete({}, options_schema=loaded.options_schema)
    facts = records.facts_on(
        case.filesystem, base=base, current=current, directory=directory
    )
    observed = call.observe(loaded, request=request, options=options, host=facts.host)
    facts = replace(facts, observed=observed)
    if current is None:
        call.plan(loaded, request=request, options=options, facts=facts)
    else:
        call.amend(
            loaded, request=request, current=current, options=options, facts=facts
        )


def _each(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
