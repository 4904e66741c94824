"""Laws about what plans count: bytes that steps take, and whose they are."""

from __future__ import annotations

from allocpolicy import CopyBase, FillHoles, GrowQcow2, Mode, Reserve, Sharing
from allocpolicy.testing import answers
from allocpolicy.testing.cases import EXISTING_SIZE, GROWN
from allocpolicy.testing.law import changes_existing, pure, require
from allocpolicy.testing.subject import Subject

_BYTES_PER_ENTRY = 8 << 10  # an L2 entry of 8 bytes for each cluster of 64 KiB


@pure("promised-covers-the-disk", "A full disk takes at least its virtual size.")
def promised_covers_the_disk(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        told = f"promised_bytes is {plan.promised_bytes} ({case})"
        require(plan.promised_bytes >= case.request.virtual_size, told)


@pure("copies-are-counted", "Whatever isn't shared needs room, known before the copy.")
def copies_are_counted(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        base = case.facts.base
        if case.current is None and base and not case.facts.shares_base:
            copies = any(isinstance(step, CopyBase) for step in plan.steps)
            told = f"peak_bytes is {plan.peak_bytes}, less than the copy ({case})"
            require(not copies or plan.peak_bytes >= base.data_bytes, told)


@pure("reservations-are-counted", "What is reserved or filled is counted beforehand.")
def reservations_are_counted(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        held = case.current.actual_size if case.current else 0
        if case.current is not None and plan.mode is Mode.STAGED:
            held = 0
        for kind, counted in ((Reserve, "reserved_bytes"), (FillHoles, "peak_bytes")):
            lengths = [step.length for step in plan.steps if isinstance(step, kind)]
            missing, size = max(lengths, default=0) - held, getattr(plan, counted)
            told = f"{counted} is {size}, and {missing} have no storage ({case})"
            require(size >= missing, told)


@pure("growth-counts-its-tables", "A qcow2 that grows mapped needs room for tables.")
def growth_counts_its_tables(subject: Subject) -> None:
    changes_existing(subject)
    for case, plan in answers.plans(subject):
        grown = [step for step in plan.steps if isinstance(step, GrowQcow2)]
        needed = (GROWN - EXISTING_SIZE) // _BYTES_PER_ENTRY
        told = f"peak_bytes is {plan.peak_bytes}, not {needed} ({case})"
        require(
            not any(step.mapped for step in grown) or plan.peak_bytes >= needed, told
        )


@pure("own-storage-is-not-shared", "What is reserved is never another file's blocks.")
def own_storage_is_not_shared(subject: Subject) -> None:
    for case, plan in answers.plans(subject):
        if any(isinstance(step, Reserve | FillHoles) for step in plan.steps):
            for step in plan.steps:
                shares = isinstance(step, CopyBase) and step.sharing != Sharing.NEVER
                require(not shares, f"it reserves, and shares the base ({case})")
