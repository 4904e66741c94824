"""Every disk of a fleet against its policy: observed in parallel, judged here.

Workers observe; this process judges, because only it has seen all disks of a filesystem
and knows the headroom that they need together, and which files are the base images of
others. Each directory is listed once, and each file opened at most once: the workers'
measurements go into the accounts. No file that looks like an image is left out in
silence: without a policy it has a row, or is counted as what it is.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from allocpolicy import arguments
from allocpolicy.arguments import StrPath
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.errors import InvalidRequest
from allocpolicy.observe import covering, known, memo, sighting
from allocpolicy.observe.covering import Covering
from allocpolicy.observe.holding import Place
from allocpolicy.observe.known import Knowledge
from allocpolicy.observe.likeness import Likeness
from allocpolicy.observe.sighting import Observer, Sighting
from allocpolicy.observe.walk import Found, walk
from allocpolicy.operations import attached as attachment
from allocpolicy.operations import audit_books, audit_rows, expectation, passed_over
from allocpolicy.operations.attached import Attached, Attachments
from allocpolicy.operations.given import Given, Givens
from allocpolicy.progress import Watcher, heard, unwatched
from allocpolicy.record import replace
from allocpolicy.registry.judge import Judge
from allocpolicy.report.audit import Audit, Finding, Remark, Row
from allocpolicy.resolve import checks
from allocpolicy.resolve.disk_map import DiskMap
from allocpolicy.resolve.policy import in_force
from allocpolicy.resolve.renewal import Renewal
from allocpolicy.storage import tree

if TYPE_CHECKING:
    from allocpolicy.resolve.flavors import Flavor

NOTHING: Mapping[Any, Any] = MappingProxyType({})
_OPEN = (*Judgement, Remark.PENDING)
FEW = 100  # disks that one process observes in the time that workers take to start


def audit(  # noqa: PLR0913  (its options)
    paths: StrPath | Iterable[StrPath],
    *,
    policy: Policy | None = None,
    given: Given | DiskMap | None = None,
    flavors: Mapping[str, Flavor] | None = None,
    expected: Mapping[Path, str | None] | Mapping[str, str | None] = NOTHING,
    attached: Mapping[Path, Attached] | Mapping[str, Attached] = NOTHING,
    jobs: int | None = None,
    read_all: bool = False,
    watch: Watcher = unwatched,
) -> Audit:
    """Return whether the disks at and below the paths keep to their policies.

    No disk is written to, and one that is being rewritten is not opened. A problem with
    a disk is reported in its row. What the tables of unchanged disks say is remembered
    in the directory of locks, for the next audit.

    :param paths: disks and directories, or one of these.
    :param policy: the operator's: headroom, disk_directories and image_cache_dir; None:
        the host's configuration, as `load_policy` reads it.
    :param given: judges disks that have no stamp, all of them or by their paths; a
        stamp is never overridden.
    :param flavors: today's flavors by name: a disk whose flavor has changed since is
        outdated, as one is whose policy the operator's options gave.
    :param expected: disks that must exist and have a policy, and which strategy, if
        that matters; they are looked at, too.
    :param attached: disks that VMs have, and what the VMs' definitions say of them,
        which goes before their stamps; they are looked at, too.
    :param jobs: the number of processes; by default one per core, and only one where
        few disks have to be read.
    :param read_all: reads all tables, whatever is known of them, and remembers nothing.
    :raises ImageError: when a path does not exist.
    :raises InvalidRequest: when jobs is less than 1.
    :raises WorkerLost: when a process was killed that looked at no disk.
    """
    if jobs is not None:
        jobs = arguments.number(jobs, "jobs")
        if jobs < 1:
            raise InvalidRequest(f"jobs = {jobs}: at least one process must look")
    if given is not None and not isinstance(given, DiskMap):
        arguments.instance(Given, given, "given")
    givens = Givens(given)
    if flavors is not None:
        flavors = arguments.mapping(flavors, "flavors", _flavor)
    watch = heard(arguments.call(watch, "watch"))
    named = arguments.paths(paths, "paths")
    policy = in_force(policy)
    listed = functools.cache(tree.listed)
    cache = policy.image_cache_dir
    awaited = expectation.look(
        arguments.mapping_from_paths(expected, "expected", _strategy)
    )
    attachments = attachment.look(
        arguments.mapping_from_paths(attached, "attached", _attached)
    )
    walked = walk(
        (*named, *awaited.disks, *attachments.disks),
        listed=listed,
        image_cache_dir=cache,
        watch=watch,
    )
    shared: dict[int, set[Place]] = defaultdict(set)
    seen = [
        audit_books.with_places_apart(one, shared)
        for one in _look(
            walked.files,
            policy=policy,
            givens=givens,
            formats=attachments.formats,
            jobs=jobs,
            read_all=read_all,
            watch=watch,
        )
    ]
    memo.remember(one.learnt for one in seen if one.learnt is not None)
    books = audit_books.Books(seen, shared=shared, policy=policy, listed=listed)
    no_disks = passed_over.look(seen)
    apart = {row.disk for row in no_disks}
    disks = [one for one in seen if one.path not in apart]
    above = covering.look(
        walked.files,
        seen=seen,
        listed=listed,
        trusted=policy.trusted_base_directories,
    )
    judged = _judged(
        disks, policy=policy, givens=givens, attachments=attachments, lack=books.lack
    )
    renewal = Renewal(policy=policy, flavors=flavors)
    renewed = _renewed(judged, renewal=renewal, attachments=attachments)
    rows = [
        attachments.named(_found(row, one, above=above), one)
        for one, row in expectation.judged(renewed, expected=awaited)
        if row.disk in attachments.disks or not _is_left(one, above)
    ]
    there, inodes = tuple(rows), {one.path: one.inode for one in seen}
    rows += audit_rows.missing(awaited.missing, attachments.missing)
    unread = tuple(audit_rows.missing(awaited.unread, attachments.unread))
    rows += unread
    rows += expectation.vanished(seen, expected=awaited)
    rows += (audit_rows.unlisted(path, why) for path, why in walked.unreadable)
    return Audit(
        rows=tuple(sorted(rows, key=lambda row: os.fspath(row.disk))),
        filesystems=tuple(books.closed()),
        passed_over=no_disks,
        bases=passed_over.base_images(no_disks),
        data_files=passed_over.data_files(no_disks),
        prepared=passed_over.prepared_disks(no_disks),
        unlisted=len(walked.unreadable) + len(unread),
        found=audit_rows.counted(named, there, inodes=inodes),
        aliases=audit_rows.aliases(there, inodes=inodes),
        closed=frozenset(audit_rows.closed(named, walked.unreadable)),
        ended=time.time(),
    )


def _strategy(value: object, name: str) -> str | None:
    return None if value is None else arguments.text(value, name)


def _flavor(value: object, name: str) -> Flavor:
    from allocpolicy.resolve.flavors import Flavor

    return arguments.instance(Flavor, value, name)


def _attached(value: object, name: str) -> Attached:
    return arguments.instance(Attached, value, name)


def _look(
    files: Sequence[Found],
    *,
    policy: Policy,
    givens: Givens,
    formats: Mapping[str, DiskFormat],
    jobs: int | None,
    read_all: bool,
    watch: Watcher,
) -> Iterator[Sighting]:
    if not files:
        return
    from allocpolicy.observe.workers import spread

    knowledge = None if read_all else known.of_files(files)
    if jobs is None:
        jobs = len(os.sched_getaffinity(0)) if _are_many(files, knowledge) else 1
    observer = Observer(
        declared=givens.formats(files),
        trusted=policy.trusted_base_directories,
        inherit=policy.inherits,
        known=formats,
        knowledge=knowledge,
    )
    progress = watch("audit")
    answers = spread(files, observer, workers=jobs, lost=sighting.lost)
    for done, seen in enumerate(answers, start=1):
        progress(done=done, total=len(files))
        if seen is not None:
            yield seen


def _are_many(files: Sequence[Found], knowledge: Knowledge | None) -> bool:
    """Return whether so many have to be read that it takes several processes."""
    unknown = (
        one
        for one in files
        if knowledge is None
        or one.status is None
        or not knowledge.seems_known(one.status)
    )
    return next(itertools.islice(unknown, FEW, None), None) is not None


def _judged(
    seen: Sequence[Sighting],
    *,
    policy: Policy,
    givens: Givens,
    attachments: Attachments,
    lack: Callable[[Sighting], str | None],
) -> Iterator[tuple[Sighting, Row]]:
    """Yield each disk with its row; ``lack`` returns the headroom missing for it."""
    judge = Judge(refusal=functools.partial(checks.stamp_refusal, policy=policy))
    for one in seen:
        if one.policy and one.observed:
            judge.prepare(one.policy.effective)
    for one in seen:
        choice = attachments.choice(one.path) or givens.choice(one)
        if one.fault is not None or (choice is not None and one.observed is not None):
            yield one, audit_rows.row(one, choice=choice, judge=judge, lack=lack(one))
        elif one.named or one.likeness is not Likeness.OTHER:
            reason = givens.no_policy(one)
            verdict = Finding(judgement=Remark.NO_POLICY, reason=reason)
            yield one, Row(disk=one.path, strategy=None, verdict=verdict)


def _renewed(
    judged: Iterable[tuple[Sighting, Row]],
    *,
    renewal: Renewal,
    attachments: Attachments,
) -> Iterator[tuple[Sighting, Row]]:
    """Yield the rows; a disk is outdated if it only keeps to what its policy was."""
    for one, row in judged:
        judgement = row.verdict.judgement
        settled = judgement not in _OPEN
        settled = settled or attachments.choice(one.path) is not None
        if one.stamp is None or one.observed is None or settled:
            yield one, row
            continue
        verdict: Verdict | Finding = row.verdict
        said = renewal.change(one.stamp)
        if said is None:
            yield one, row
            continue
        if isinstance(verdict, Verdict):
            if judgement is Judgement.MEETS:
                verdict = Finding(judgement=Remark.OUTDATED, reason=said)
            else:
                reason = f"{verdict.reason}; {said}"
                verdict = replace(verdict, reason=reason)
        else:  # it is pending
            reason = f"{said}; {verdict.reason}"
            verdict = Finding(judgement=Remark.OUTDATED, reason=reason)
        yield one, replace(row, verdict=verdict)


def _is_left(seen: Sighting, above: Covering) -> bool:
    """Return whether a snapshot with an inherited policy has a newer one on it.

    Nobody writes to it any more; the disk itself keeps its promise for later.
    """
    if seen.inherited is None or seen.observed is None or seen.inode is None:
        return False
    return bool(above.topmost(seen.inode, in_use=seen.observed.in_use))


def _found(row: Row, seen: Sighting, *, above: Covering) -> Row:
    """Return the row with where guests write instead, and how large the disk is."""
    sized, uncovered = audit_rows.sized(row, seen), _uncovered(seen, above)
    return sized if uncovered is None else replace(sized, uncovered=uncovered)


def _uncovered(seen: Sighting, above: Covering) -> str | None:
    """Return where guests write instead of a disk with a policy, in words."""
    if seen.stamp is None or seen.inode is None:
        return None
    in_use = seen.observed.in_use if seen.observed else None
    return above.uncovered(seen.inode, in_use=in_use)
