"""Running a strategy's code: whatever it raises is its failure, and named as such."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from allocpolicy import errors, wording
from allocpolicy.errors import (
    ContractBroken,
    Error,
    InvalidRequest,
    PlanError,
    Replan,
    StrategyFailed,
    Unsupported,
)

# What only the framework can say: of the request, or of how the work ended.
_OURS_ALONE = (
    errors.ConfigError,
    errors.DestinationError,
    errors.DestinationExists,
    errors.ExtraSpecError,
    errors.FailedAfterwards,
    errors.FlavorError,
    errors.Overcommitted,
    errors.PromiseBroken,
    errors.StrategyNotFound,
    errors.TooMuchWork,
)
_MAY_REPLAN = ("observe", "plan", "amend", "check", "run")
# Loading is no question: it has no answers, only failures of other strategies.
_WHEN_LOADED = (errors.DuplicateStrategy, StrategyFailed)

# The strategies whose code runs, each asked by the one before.
_running: ContextVar[tuple[str, ...]] = ContextVar("_running", default=())


class Blamed(Protocol):
    """Whose code runs; as a string: its distribution, version and entry point."""

    @property
    def name(self) -> str:
        """The strategy's name."""


@contextlib.contextmanager
def blaming(
    found: Blamed, *, hook: str = "", passed: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn what the body raises, except for answers, into StrategyFailed.

    Answers are errors of ours; refusals name the strategy, whatever its author wrote.
    The rest includes SystemExit: a plugin doesn't decide how the program ends. Ctrl-C
    stays what it is. A child that the body forked ends here: it must not publish the
    disk again, nor clean up what belongs to its parent.

    :param hook: the method that is called, if it is one.
    :param passed: exceptions that are an answer, not a failure.
    :raises StrategyFailed: from the original, naming plugin, distribution and hook.
    """
    process = os.getpid()
    running = _running.set((*_running.get(), found.name))
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, passed):
            raise
        reason = wording.raised(error)
        if isinstance(error, Error) and _is_ours(error):
            said = error.reason = wording.bounded(error.reason)
            if _is_answer(error, hook=hook):
                _name(error, found, hook=hook)
                raise
            if isinstance(error, ContractBroken):
                reason = said
        raise StrategyFailed(found.name, str(found), hook, reason) from error
    finally:
        if os.getpid() != process:
            os._exit(1)
        _running.reset(running)


def refuse_cycle(name: str) -> None:
    """Check that a strategy isn't asked by itself, by way of others.

    :raises ContractBroken: when it is.
    """
    running = _running.get()
    if name in running:
        way = " to ".join(map(repr, (*running[running.index(name) :], name)))
        raise ContractBroken(f"strategies delegate in a circle: {way}")


def _is_ours(error: Error) -> bool:
    """Return whether it is an error of ours, not a plugin's subclass of one."""
    return type(error) is getattr(errors, type(error).__name__, None)


def _is_answer(error: Error, *, hook: str) -> bool:
    """Return whether the hook, or the step's method, may raise an error of ours."""
    if not hook:
        return isinstance(error, _WHEN_LOADED)
    if isinstance(error, Replan):
        return hook.rpartition(".")[2] in _MAY_REPLAN
    return not isinstance(error, (ContractBroken, *_OURS_ALONE))


def _name(error: Error, found: Blamed, *, hook: str) -> None:
    """Let a refusal name the strategy; sizes that no image can have are one, too.

    :raises PlanError: instead of InvalidRequest.
    """
    refusals = (InvalidRequest, PlanError)
    if type(error) not in (refusals if "." in hook else (*refusals, Unsupported)):
        return
    name, reason = found.name, error.reason
    if not re.match(rf"(.*\bstrategy '?)?{re.escape(name)}(?![\w-])", reason):
        reason = f"strategy {name!r}: {reason}"
    if type(error) is InvalidRequest:
        raise PlanError(reason) from error
    error.reason, error.args = reason, (*error.args[:-1], reason)
