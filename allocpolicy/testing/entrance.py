"""What every entrance to the suite does first: pytest's, a class's, a command's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from allocpolicy import InvalidRequest
from allocpolicy.record import dataclass, field
from allocpolicy.testing import filesystems, subject
from allocpolicy.testing.ground import Ground, grounds
from allocpolicy.testing.laws import laws
from allocpolicy.testing.subject import Environment, Subject, as_it_is
from allocpolicy.wording import choices

SIZES = {"btrfs": 4 << 30}  # it gives the space of removed files back late
_SIZE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the user, or the strategy's author, says.

    ``directories`` are where disks are made, each on a filesystem that is to be tried;
    ``filesystems`` are kinds of which new ones are made, which takes root. Without any
    of both, disks are made where temporary files are.
    """

    strategy: str
    directories: Sequence[Path] = ()
    filesystems: Sequence[str] = ()
    option_sets: Sequence[Mapping[str, object]] | None = None
    environment: Environment = as_it_is
    waived: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> Subject:
        """Return the strategy, if all that is given can be.

        :raises InvalidRequest: (its subclasses) for what can't be as it is given.
        :raises StrategyFailed: when the strategy can't be loaded.
        """
        names = [law.name for law in laws()]
        _refuse_unknown(self.waived, known=names, what="law is named")
        _refuse_unknown(
            self.filesystems, known=filesystems.KINDS, what="filesystem can be made:"
        )
        for directory in self.directories:
            if not directory.is_dir():
                raise InvalidRequest(f"{directory} is no directory to make disks in")
            _refuse_unwritable(directory)
        try:
            return subject.subject(
                self.strategy,
                option_sets=self.option_sets,
                environment=self.environment,
                waived=self.waived,
            )
        except ValueError as error:
            raise InvalidRequest(
                f"an option set of {self.strategy}: {error}"
            ) from error


def of_options(options: Mapping[str, Any]) -> Given:
    """Return what the options of pytest say.

    :raises InvalidRequest: when they name no strategy, or waive without a reason.
    """
    if not options.get("strategy"):
        raise InvalidRequest("say which strategy: --strategy NAME")
    kinds = options["filesystems"]
    return Given(
        strategy=options["strategy"],
        directories=[Path(one) for one in options["dir"]],
        filesystems=kinds.split(",") if kinds else [],
        waived=waivers(options["waive"]),
    )


@contextmanager
def grounds_of(given: Given) -> Iterator[tuple[Ground, ...]]:
    """Make the grounds; remove them when the body is through.

    :raises InvalidRequest: when they can't be made as it is given.
    """
    with ExitStack() as stack:
        directories = [*given.directories, *_mounted(given, stack)]
        if not directories:
            directories = [Path(tempfile.gettempdir())]
        yield stack.enter_context(_made(directories))


def _refuse_unknown(words: Iterable[str], *, known: Sequence[str], what: str) -> None:
    for word in words:
        if word not in known:
            allowed = choices(known, nearest_to=word)
            raise InvalidRequest(f"no {what} {word!r}; {allowed}")


def _refuse_unwritable(directory: Path) -> None:
    """Find out at once, rather than in each law."""
    try:
        tempfile.TemporaryDirectory(dir=directory).cleanup()
    except OSError as error:
        reason = f"no disks can be made in it: {error.strerror}"
        raise InvalidRequest(f"{directory}: {reason}") from error


@contextmanager
def variables(given: Mapping[str, str]) -> Iterator[None]:
    """Have environment variables while the body runs."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def waivers(words: Sequence[str]) -> dict[str, str]:
    """Return what words like ``LAW=REASON`` waive.

    :raises InvalidRequest: for one without a reason.
    """
    parted = [word.partition("=") for word in words]
    for law, _, reason in parted:
        if not reason.strip():
            raise InvalidRequest(f"waive {law!r} with a reason: {law}=REASON")
    return {law: reason for law, _, reason in parted}


@contextmanager
def _made(directories: Sequence[Path]) -> Iterator[tuple[Ground, ...]]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(grounds(directories))
        except OSError as error:  # of a write it doesn't name the file
            where = error.filename or ", ".join(map(str, directories))
            raise InvalidRequest(f"{where}: {error.strerror}") from error
        yield made


def _mounted(given: Given, stack: ExitStack) -> Iterator[Path]:
    """Yield the mount points of the new filesystems."""
    for kind in given.filesystems:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        size = SIZES.get(kind, _SIZE)
        mounting = filesystems.mounted(kind, size=size, directory=place, sparse=True)
        try:
            yield stack.enter_context(mounting)
        except filesystems.Unavailable as error:
            raise InvalidRequest(f"{kind} can't be mounted: {error}") from error
