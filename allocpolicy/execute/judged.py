"""A disk judged by its strategy, once it was observed."""

from __future__ import annotations

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Judgement, Verdict
from allocpolicy.errors import PromiseBroken
from allocpolicy.execute.job import Job, Outcome
from allocpolicy.registry import call


def verified(job: Job, observation: Observation) -> Outcome:
    """Let the strategy verify the disk as it was observed.

    :raises PromiseBroken: when it is not what was promised.
    """
    outcome = judged(job, observation)
    if problem := _broken_promise(job, observation, outcome.verdict):
        state = "the disk is whole" if job.disk else "nothing was left behind"
        path, name = job.request.destination, job.selection.loaded.found.name
        raise PromiseBroken(path, name, problem, state)
    return outcome


def judged(job: Job, observation: Observation) -> Outcome:
    """Return the disk as it was observed, judged by its strategy."""
    loaded, options = job.selection.loaded, job.selection.options
    verdict = call.verify(loaded, options=options, observation=observation)
    attachment = call.attach(
        loaded,
        options=options,
        observation=observation,
        machines=job.policy.machines,
    )
    return Outcome(
        observation=observation, verdict=verdict, attachment=attachment, stamp=None
    )


def _broken_promise(job: Job, seen: Observation, verdict: Verdict) -> str | None:
    wanted, present = job.request.virtual_size, seen.virtual_size
    if present != wanted:
        return f"virtual_size is {present} bytes, but {wanted} were requested"
    return verdict.reason if verdict.judgement is Judgement.DRIFTED else None
