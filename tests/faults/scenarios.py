"""The commands that meet faults: what each finds, and what it may leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from pathlib import Path

from tests.harness import images
from tests.harness.cli import allocpolicy
from tests.harness.images import MIB

SIZE = 2 * MIB
GROWN = 6 * MIB
DISK, CACHE = "disks/disk", "disks/_base"
RAW, EMPTY = "images/base.raw", "images/empty.raw"
STRATEGIES = {
    "none": ("--strategy", "none"),
    "space": ("--strategy", "space"),
    "zero-fill": (
        *("--strategy", "space"),
        *("--extra-spec", "allocpolicy:space.reserve=zero-fill"),
    ),
    "performance": ("--strategy", "performance"),
    "falloc": (
        *("--strategy", "performance"),
        *("--extra-spec", "allocpolicy:performance.data=falloc"),
    ),
    "full": (
        *("--strategy", "performance"),
        *("--extra-spec", "allocpolicy:performance.data=full"),
    ),
}


class Effect(StrEnum):
    """What a command is for."""

    CREATES = "creates"  # a new disk
    CHANGES = "changes"  # an existing disk
    LOOKS = "looks"  # and leaves everything as it is
    PRUNES = "prunes"  # removes entries of an image cache
    PREPARES = "prepares"  # adds a prepared disk to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A command, in a place of its own: ``disks``, ``images``, and what it prepares."""

    name: str
    effect: Effect
    prepare: Callable[[Path], object]
    words: Sequence[str]  # the command; "{}" is the place
    format: str = "raw"
    sizes: frozenset[int] = field(default=frozenset({SIZE}))

    def arguments(self, place: Path) -> list[str]:
        """Return the command line."""
        return [word.format(place) for word in self.words]

    def __str__(self) -> str:
        return self.name


def base(place: Path, kind: str) -> Path:
    """Make the base image of one kind; a raw one is always beside it.

    Data and holes alternate, and it is no whole number of clusters.
    """
    raw = place / RAW
    with raw.open("wb") as file:
        for index in range(5):
            file.seek(index * 250 * 1024)
            file.write(bytes([index + 1]) * (70 * 1024 + 512))
        file.truncate(SIZE * 2 // 3 // 512 * 512)
    if kind in {"raw", "none"}:
        return raw
    if kind == "compressed":
        return images.convert(raw, format="qcow2", compress=True)
    return images.convert(raw, format=kind)


PREPARE = (
    *("cache", "prepare", "{}/disks", "--size", str(SIZE)),
    *("--base", "{}/" + RAW, *STRATEGIES["performance"]),
)


def prepared(place: Path) -> None:
    """Have a disk ready, of which others are clones."""
    base(place, "raw")
    done(*(word.format(place) for word in PREPARE))


def done(*arguments: object) -> None:
    """Run a command of the preparation."""
    finished = allocpolicy(*arguments)
    assert finished.status == 0, finished.stderr


def new(strategy: str, format: str, kind: str) -> Scenario:
    names = {"vmdk": "base--0.vmdk", "vpc": "base--0.vpc", "qcow2": "base--0.qcow2"}
    names |= {"compressed": "base--1.qcow2", "raw": "base.raw"}
    with_base = () if kind == "none" else ("--base", "{}/images/" + names[kind])
    return Scenario(
        name=f"provision {strategy} {format}, base {kind}",
        effect=Effect.CREATES,
        prepare=lambda place: base(place, kind),
        words=(
            *("provision", "{}/" + DISK, "--size", str(SIZE), "--format", format),
            *(*with_base, *STRATEGIES[strategy], "-f", "json"),
        ),
        format=format,
    )


def disk(
    place: Path, *, strategy: str, format: str, kind: str = "raw", writes: bool = True
) -> None:
    """Make the existing disk, and let a guest write to it."""
    source = base(place, kind)
    with_base = () if kind == "none" else ("--base", source)
    done(
        *("provision", place / DISK, "--size", SIZE, "--format", format),
        *(*with_base, *STRATEGIES[strategy]),
    )
    if writes:
        commands = ("write -P 170 300k 130k", "write -P 187 1900k 65k")
        images.qemu_io(place / DISK, *commands, format=format)


def punched(place: Path) -> None:
    """Make a mapped disk of which a guest discarded clusters."""
    disk(place, strategy="performance", format="qcow2")
    images.qemu_io(place / DISK, "discard 512k 512k", format="qcow2", discard="unmap")


def tiny_clusters(place: Path) -> None:
    """Make a disk without a stamp whose L1 table must move when it grows."""
    options = ("-f", "qcow2", "-o", "cluster_size=512")
    images.qemu_img("create", "-q", *options, place / DISK, SIZE)
    commands = [f"write -P {index + 1} {index * 30}k 3k" for index in range(60)]
    images.qemu_io(place / DISK, *commands, format="qcow2")


def changed(
    command: str,
    *words: str,
    name: str,
    prepare: Callable[[Path], object],
    format: str,
    sizes: frozenset[int] = frozenset({SIZE}),
) -> Scenario:
    return Scenario(
        name=f"{command} {name}",
        effect=Effect.CHANGES,
        prepare=prepare,
        words=(command, "{}/" + DISK, *words, "-f", "json"),
        format=format,
        sizes=sizes,
    )


def applied(before: str, after: str, format: str, *words: str) -> Scenario:
    return changed(
        *("apply", *STRATEGIES[after], *words),
        name=f"{before} to {after}, {format}",
        prepare=lambda place: disk(place, strategy=before, format=format),
        format=format,
    )


def resized(strategy: str, format: str, kind: str = "raw") -> Scenario:
    return changed(
        *("resize", str(GROWN)),
        name=f"{strategy} {format}, base {kind}",
        prepare=lambda place: disk(place, strategy=strategy, format=format, kind=kind),
        format=format,
        sizes=frozenset({SIZE, GROWN}),
    )


def fleet(place: Path) -> None:
    """Make three disks and a foreign file beside them."""
    source = base(place, "raw")
    kinds = (("none", "qcow2"), ("space", "raw"), ("performance", "qcow2"))
    for strategy, format in kinds:
        path = place / "disks" / f"{strategy}.{format}"
        done(
            *("provision", path, "--base", source, "--size", SIZE),
            *("--format", format, *STRATEGIES[strategy]),
        )
    (place / "disks" / "notes.txt").write_text("no disk")


def cached(place: Path) -> None:
    """Make a cache of two entries; an overlay needs one, nobody the other."""
    for kind in ("vmdk", "vpc"):
        source = base(place, kind)
        target = place / "disks" / kind
        format = "qcow2" if kind == "vmdk" else "raw"
        done(
            *("provision", target, "--base", source, "--size", SIZE),
            *("--base-format", kind, "--format", format, "--strategy", "none"),
        )


def filled(place: Path) -> None:
    """Make a cache that has the entry already."""
    source = base(place, "vmdk")
    done("provision", place / "disks" / "first", "--base", source, "--size", SIZE)


def looked(name: str, prepare: Callable[[Path], object], *words: str) -> Scenario:
    return Scenario(
        name=name, effect=Effect.LOOKS, prepare=prepare, words=(*words, "-f", "json")
    )


def scenarios() -> list[Scenario]:
    """Return every command on every kind of disk, its options too."""
    found = [
        new(strategy, format, "raw")
        for strategy, format in product(STRATEGIES, ("qcow2", "raw"))
    ]
    found += [
        new(strategy, format, kind)
        for kind, (strategy, format) in product(
            ("none", "qcow2", "compressed", "vmdk"),
            (("none", "qcow2"), ("space", "raw"), ("performance", "qcow2")),
        )
    ]
    cached_disk = new("none", "qcow2", "vmdk")
    found.append(
        Scenario(
            name="provision none qcow2, base vmdk that is cached",
            effect=Effect.CREATES,
            prepare=filled,
            words=cached_disk.words,
            format="qcow2",
        )
    )
    found += [
        applied("none", "space", "raw"),
        applied("none", "space", "qcow2"),
        applied("none", "performance", "qcow2"),
        applied("performance", "falloc", "qcow2"),
        applied("performance", "full", "qcow2"),
        applied("none", "full", "raw"),
        applied("zero-fill", "none", "raw", "--thin"),
        applied("full", "performance", "qcow2", "--thin"),
        applied("performance", "performance", "qcow2"),
        changed(
            "apply",
            name="performance, partly unmapped",
            prepare=punched,
            format="qcow2",
        ),
        resized("none", "raw"),
        resized("space", "raw"),
        resized("none", "qcow2"),
        resized("space", "qcow2"),
        resized("performance", "qcow2"),
        resized("full", "qcow2", "none"),
        changed(
            *("resize", str(GROWN), "--format", "qcow2", "--strategy", "none"),
            name="qcow2 with clusters of 512 bytes",
            prepare=tiny_clusters,
            format="qcow2",
            sizes=frozenset({SIZE, GROWN}),
        ),
        looked("inspect raw", fleet, "inspect", "{}/disks/space.raw"),
        looked("inspect overlay", fleet, "inspect", "{}/disks/none.qcow2"),
        looked("inspect mapped", fleet, "inspect", "{}/disks/performance.qcow2"),
        looked("audit", fleet, "audit", "{}/disks"),
        looked(
            "audit with textfile",
            *(fleet, "audit", "{}/disks", "--textfile", "{}/metrics/disks.prom"),
        ),
        looked("host probe", fleet, "host", "probe", "{}/disks"),
        looked("host capacity", fleet, "host", "capacity", "{}/disks"),
        Scenario(
            name="cache prepare",
            effect=Effect.PREPARES,
            prepare=lambda place: base(place, "raw"),
            words=(*PREPARE, "-f", "json"),
        ),
        Scenario(
            name="cache prune --prepared",
            effect=Effect.PRUNES,
            prepare=prepared,
            words=("cache", "prune", "{}/disks", "--prepared", "-f", "json"),
        ),
        looked("cache list", cached, "cache", "list", "{}/disks"),
        Scenario(
            name="cache prune",
            effect=Effect.PRUNES,
            prepare=cached,
            words=("cache", "prune", "{}/disks", "-f", "json"),
        ),
    ]
    return found
