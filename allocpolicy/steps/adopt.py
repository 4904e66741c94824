"""The step that makes a ready-made file the disk."""

from __future__ import annotations

from pathlib import Path

from allocpolicy.contract.facts import BaseImage
from allocpolicy.contract.plan import Step, Target
from allocpolicy.overriding import override
from allocpolicy.progress import Progress
from allocpolicy.record import dataclass
from allocpolicy.storage import directories, ready_made
from allocpolicy.storage.failure import own_work


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt(Step):
    """Afterwards the disk is the ready-made file at ``path``, as it is.

    It must be a whole disk of the request's format and size on the same filesystem,
    nobody has it open, and it has no other name. It keeps its name until the disk is
    published: whatever ends the work before, the file is where it was. One that
    `verify` finds drifted is put back, and lost to the next plan. ``carries`` is the
    image whose content it has. Nothing is allocated: the plan's ``peak_bytes`` is 0.
    """

    path: Path  #: the ready-made file
    #: the image whose content it has; None: it is empty
    carries: BaseImage | None = None

    @property
    def adopts(self) -> Path:
        """Return the file that becomes the disk."""
        return self.path

    @override
    def describe(self) -> str:
        return f"take {self.path} as the disk"

    def check(self, target: Target) -> None:
        """Raise what would prevent it, as far as that is known without opening it.

        :raises Replan: when it is gone.
        :raises Unsupported: when it can't become the disk.
        """
        action = self.describe()
        with (
            own_work(fd=target.fd, path=target.directory, needed=0, action=action),
            directories.opened(target.directory) as directory,
        ):
            ready_made.look(self.path, into=directory.fd)

    @override
    def run(self, target: Target, progress: Progress) -> None:
        target.adopt(self.path)
