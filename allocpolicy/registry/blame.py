"""Running a strategy's code: whatever it raises is its failure, and named as such."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol

from allocpolicy import errors, wording
from allocpolicy.errors import Error, StrategyFailed


class Blamed(Protocol):
    """Whose code runs."""

    @property
    def name(self) -> str:
        """The strategy's name."""

    @property
    def target(self) -> str:
        """Its entry point's target."""


@contextlib.contextmanager
def blaming(
    found: Blamed, *, passed: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn what the body raises, except for our errors, into StrategyFailed.

    That includes SystemExit: a plugin doesn't decide how the program ends. Ctrl-C stays
    what it is. A child that the body forked ends here: it must not publish the disk
    again, nor clean up what belongs to its parent.

    :param passed: exceptions that are an answer, not a failure.
    :raises StrategyFailed: from the original, naming the plugin and its target.
    """
    process = os.getpid()
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, passed):
            raise
        if isinstance(error, Error) and _is_ours(error):
            error.reason = wording.bounded(error.reason)
            raise
        reason = wording.raised(error)
        raise StrategyFailed(found.name, found.target, reason) from error
    finally:
        if os.getpid() != process:
            os._exit(1)


def _is_ours(error: Error) -> bool:
    """Return whether it is an error of ours, not a plugin's subclass of one."""
    return type(error) is getattr(errors, type(error).__name__, None)
