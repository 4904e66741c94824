"""What a command leaves that met a fault, whatever the fault was."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.image_cache import location
from allocpolicy.images.stamp import XATTR
from allocpolicy.storage.temporary import is_temporary
from tests.faults.answers import (
    ANSWERED,
    DONE,
    INTERRUPTED,
    PUBLISHED,
    wrong_output,
    wrong_status,
    wrong_words,
)
from tests.faults.calls import Fault
from tests.faults.place import Picture, Place, picture
from tests.faults.scenarios import CACHE, DISK, EMPTY, RAW, Effect, Scenario
from tests.faults.tracing import Ended
from tests.harness import images


class Oracle:
    """Judges what is left in a place; disks that were found whole are remembered."""

    def __init__(self, scenario: Scenario, place: Place, reference: Ended) -> None:
        self.scenario = scenario
        self.place = place
        self.reference = reference
        self.failed = False  # a crash leaks clusters, also after the retry
        self._whole: set[tuple[str, bool]] = set()

    def violations(self, ended: Ended, fault: Fault) -> Iterator[str]:
        """Yield each law that does not hold after the command, in words."""
        looks = self.scenario.effect is Effect.LOOKS
        done = ended.status in (ANSWERED if looks else {self.reference.status})
        self.failed = not done
        if not done:
            yield from wrong_status(ended, fault)
        if not done and ended.status is not None:
            yield from wrong_words(ended, fault)
        yield from self.wrong_files(ended)
        if ended.status == DONE:
            yield from wrong_records(self.place.path / CACHE)
            yield from wrong_prepared(self.place.path / CACHE)
        if done and self.scenario.effect is not Effect.PRUNES:
            yield from wrong_output(ended, fault, reference=self.reference)

    def wrong_files(self, ended: Ended) -> Iterator[str]:
        now, effect = picture(self.place.path), self.scenario.effect
        rewriting = effect is Effect.CHANGES and ended.status != DONE
        injected = ended.injected
        not_removed = injected is not None and injected.name == "unlinkat"
        names = ended.status is None or rewriting or not_removed
        yield from self._wrong_rest(now, names=names)
        if effect is Effect.CREATES:
            yield from self._wrong_new(now, ended)
        elif effect is Effect.CHANGES:
            yield from self.wrong_disk(leaks=self.failed)

    def _wrong_rest(self, now: Picture, *, names: int) -> Iterator[str]:
        """Nothing else is touched, and nothing left but ``names`` temporary names.

        A kill may leave one; so may an error while two names are exchanged, before it
        is settled which of the files is the disk; and one whose removal fails stays.
        """
        before = self.place.picture
        temporary = [name for name in now if is_temporary(os.path.basename(name))]
        if len(temporary) > names:
            yield f"left behind: {', '.join(temporary)}"
        for name in (now | before).keys() - set(temporary) - {DISK}:
            if is_of_cache(name):
                yield from self._wrong_entry(name, now)
            elif name.startswith("metrics/"):
                yield from wrong_metrics(self.place.path / name)
            elif now.get(name) != before.get(name):
                yield f"{name} was {'changed' if name in now else 'removed'}"

    def _wrong_entry(self, name: str, now: Picture) -> Iterator[str]:
        """An entry of the cache is complete or absent, and what is used stays."""
        path = self.place.path / name
        if name.endswith(".raw") and "/." not in name and name in now:
            base = self.place.path / RAW
            if not images.same_content(path, base, formats=("raw", "raw")):
                yield f"{name} is not the image that it is named by"
        if location.is_prepared_name(path.name) and "/." not in name and name in now:
            base = self.place.path / RAW
            if not images.same_content(path, base, formats=("qcow2", "raw")):
                yield f"{name} is not the disk that it is named by"
            yield from wrong_tables(path, leaks=False)
        if self.scenario.effect is Effect.LOOKS and now != self.place.picture:
            yield f"{name} was changed"
        if name.endswith("vmdk.raw") and name in self.place.picture and name not in now:
            yield f"{name} was removed, and is needed"

    def _wrong_new(self, now: Picture, ended: Ended) -> Iterator[str]:
        if DISK in now:
            if ended.status not in {None, DONE, INTERRUPTED, *PUBLISHED}:
                yield f"exit status {ended.status}, and the disk is there"
            yield from self.wrong_disk(leaks=False)
        elif ended.status in {DONE, *PUBLISHED}:
            yield f"exit status {ended.status}, and there is no disk"

    def wrong_disk(self, *, leaks: bool) -> Iterator[str]:
        """The disk is whole: consistent, with its content, of a size it may have."""
        disk, format = self.place.path / DISK, self.scenario.format
        digest = picture(disk.parent)[disk.name].digest, leaks
        if self._had_stamp() and XATTR not in os.listxattr(disk):
            yield "the disk has no stamp"
        if digest in self._whole:
            return
        wrong = list(self._wrong_content(disk, format, leaks=leaks))
        yield from wrong
        if not wrong:
            self._whole.add(digest)

    def _had_stamp(self) -> bool:
        before = self.place.picture.get(DISK)
        return before is None or XATTR in dict(before.attributes)

    def _wrong_content(self, disk: Path, format: str, *, leaks: bool) -> Iterator[str]:
        if format == "qcow2":
            yield from wrong_tables(disk, leaks=leaks)
        size = images.info(disk, format=format)["virtual-size"]
        if size not in self.scenario.sizes:
            yield f"the disk's virtual size is {size}"
        original, its_format = self._original()
        if not images.same_content(disk, original, formats=(format, its_format)):
            yield "the disk's content is another"

    def _original(self) -> tuple[Path, str]:
        """Return the image whose content the disk has; what it has more is zero."""
        if self.scenario.effect is Effect.CHANGES:
            return self.place.before / DISK, self.scenario.format
        has_base = "--base" in self.scenario.words
        return self.place.path / (RAW if has_base else EMPTY), "raw"


def wrong_tables(disk: Path, *, leaks: bool) -> Iterator[str]:
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    # 3: leaked clusters, and nothing else.
    if done.returncode not in ({0, 3} if leaks else {0}):
        said = " ".join(f"{done.stdout} {done.stderr}".split())
        yield f"qemu-img check: {said[:300]}"


def wrong_metrics(path: Path) -> Iterator[str]:
    if path.exists() and not path.read_text().endswith("\n"):
        yield f"{path.name} is not complete"


def wrong_records(cache: Path) -> Iterator[str]:
    """A cache's records are whole: a hash in each memo, a path in each user's line."""
    for memo in (cache / location.HASHES).glob("*"):
        if not re.fullmatch(r"[0-9a-f]{64}", memo.read_text()):
            yield f"{memo.name} is no hash: {memo.read_text()!r}"
    for users in (cache / location.USERS).glob("*"):
        for line in users.read_text().splitlines():
            if not re.fullmatch(r'"/.*"', line):
                yield f"{users.name} has a record that is none: {line!r}"


def wrong_prepared(cache: Path) -> Iterator[str]:
    """What is recorded of prepared disks is whole, and they are there."""
    for record in (cache / location.PREPARED).glob("*"):
        if not record.read_text().startswith('{"version": '):
            yield f"{record.name} is no record: {record.read_text()!r}"
        if not (cache / record.name).exists():
            yield f"{record.name} is recorded, and isn't there"


def is_of_cache(name: str) -> bool:
    return "/_base/" in name
