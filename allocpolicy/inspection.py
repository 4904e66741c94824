"""Looking at an existing disk, which nobody vouches for: read-only, without locks.

`as_document` gives the object that ``inspect -f json`` prints, valid against
schemas/inspection.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allocpolicy import existing, observe, report
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.facts import DiskFormat, Headroom, Observation, Use
from allocpolicy.judgement import Judge
from allocpolicy.observe import Known, Surroundings
from allocpolicy.qcow2.consistency import check_tables
from allocpolicy.qcow2.header import read_header
from allocpolicy.stamp import Choice, Stamp
from allocpolicy.strategy import Attachment, Verdict

LOOKS = 3  # at a disk that is being written to


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a disk is, and how it stands to its policy.

    ``verdict`` and ``attachment`` are None where no policy is known.
    """

    disk: Path
    stamp: Stamp | None
    observed: Observation
    verdict: Verdict | None
    attachment: Attachment | None


def inspect(
    disk: existing.Disk,
    *,
    given: Choice | None,
    headroom: Headroom,
    disk_directories: tuple[Path, ...] = (),
) -> Inspection:
    """Return what an open disk is, judged by its stamp, or by the given choice.

    :raises ImageError: when it is malformed.
    """
    observed = look(
        disk.fd,
        path=disk.path,
        format=disk.format,
        surroundings=observe.surroundings(
            disk.fd,
            directory=disk.path.parent,
            headroom=headroom,
            disk_directories=disk_directories,
        ),
    )
    choice = disk.stamp.effective if disk.stamp else given
    judge = Judge()
    return Inspection(
        disk=disk.path,
        stamp=disk.stamp,
        observed=observed,
        verdict=judge.verdict(choice, observed) if choice else None,
        attachment=judge.attachment(choice, observed) if choice else None,
    )


def look(
    fd: int, *, path: Path, format: DiskFormat, surroundings: Surroundings
) -> Observation:
    """Return what the open disk is, all of its tables checked.

    A running QEMU moves clusters while we read: what seems malformed then is looked at
    again.

    :raises ImageError: when the qcow2 header or its tables are malformed.
    """
    for left in reversed(range(LOOKS)):
        try:
            return observe.disk(
                fd,
                path=path,
                format=format,
                surroundings=surroundings,
                known=_check(fd, path) if format is DiskFormat.QCOW2 else None,
            )
        except ImageError:
            if not left or observe.use(fd) is not Use.WRITING:
                raise
        except InvalidRequest as error:  # of numbers that no image has
            raise ImageError(path, error.reason) from error
    raise AssertionError("the last look returns or raises")


def _check(fd: int, path: Path) -> Known:
    header = read_header(fd, path=path)
    mapped = check_tables(fd, header, path=path, vm_state=True)
    return Known(header=header, mapped=mapped)


def as_document(inspection: Inspection) -> dict[str, object]:
    """Return the inspection as JSON data."""
    return {
        "disk": str(inspection.disk),
        "stamp": report.plain(inspection.stamp),
        "observed": report.plain(inspection.observed),
        "verdict": report.plain(inspection.verdict),
        "attachment": report.plain(inspection.attachment),
    }
