"""What placement is told of a compute node's storage: a provider.yaml of Nova's.

Its schema is Nova's ("Managing Resource Providers Using Config Files", version 1.0).
A trait is there when `host probe` found that it holds; flavors require it.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from allocpolicy import wording
from allocpolicy.contract.strategy import Judgement
from allocpolicy.errors import DestinationError
from allocpolicy.log import telling
from allocpolicy.log.entry import State
from allocpolicy.report import whole_file
from allocpolicy.report.probe import Probe, Trial, capabilities

PREFIX = "CUSTOM_ALLOCPOLICY"
LONGEST = 255  # characters of a trait, in placement


def traits(found: Probe) -> Mapping[str, str | None]:
    """Return the traits, and of each why the host doesn't have it, or None.

    Names that differ only in ``-`` and ``_`` have one trait: what both keep to.
    """
    said: dict[str, str | None] = {}
    for trait, reason in _all(found):
        too_long = f"longer than {LONGEST} characters" if len(trait) > LONGEST else None
        said[trait] = said.get(trait) or too_long or reason
    return dict(sorted(said.items()))


def text(found: Probe) -> str:
    """Return the file: YAML, with what the host lacks in comments."""
    import yaml

    said = traits(found)
    having = [trait for trait, reason in said.items() if reason is None]
    lacking = (f"#   {trait}: {reason}\n" for trait, reason in said.items() if reason)
    provider = {
        "identification": {"uuid": "$COMPUTE_NODE"},
        "traits": {"additional": having},
    }
    document = {"meta": {"schema_version": "1.0"}, "providers": [provider]}
    place = wording.one_line(str(found.directory))
    return "".join(
        (
            f"# Written by allocpolicy nova provider-config {place}\n",
            yaml.safe_dump(document, sort_keys=False),
            "# not there, and why:\n",
            *lacking,
        )
    )


def write(path: Path, content: str) -> None:
    """Replace the file, whole; one that says the same to Nova stays as it is.

    Its comments have figures that were measured: they are others each time.

    :raises Error: as `whole_file.replace` does.
    """
    there, mode = _there(path)
    is_the_same = there is not None and _said(there) == _said(content.encode())
    if is_the_same and mode == whole_file.MODE:
        return
    before = None if there is None else _sum(there)
    after = _sum(content.encode())
    with telling.changing(
        "nova provider-config",
        file=path.absolute(),
        before=before,
        refusals=(DestinationError,),
    ) as done:
        whole_file.replace(path, content, what="provider configuration")
        done(after)


def _there(path: Path) -> tuple[bytes | None, int]:
    """Return the content and the mode bits of the file that is there, if it is one."""
    try:
        mode = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else None
    except OSError:  # it may not be read
        return None, 0
    return content, stat.S_IMODE(mode)


def _said(content: bytes) -> list[bytes]:
    """Return the lines that Nova reads."""
    return [line for line in content.splitlines() if not line.startswith(b"#")]


def _sum(content: bytes) -> State:
    return {"sha256": hashlib.sha256(content).hexdigest()}


def _all(found: Probe) -> Iterator[tuple[str, str | None]]:
    for name, can in capabilities(found.capabilities).items():
        yield _trait("CAN", name), None if can else "the filesystem can't"
    for trial in found.trials:
        kept = _why_not_kept(trial)
        yield _trait("KEEPS", trial.strategy, trial.format), kept
        guaranteed = kept or _why_not_guaranteed(trial)
        yield _trait("GUARANTEES", trial.strategy, trial.format), guaranteed


def _why_not_kept(trial: Trial) -> str | None:
    if trial.outcome is None:
        return wording.one_line(trial.error or "it can't be tried")
    verdict = trial.outcome.verdict
    if verdict.judgement is Judgement.MEETS:
        return None
    return wording.one_line(f"{verdict.judgement}: {verdict.reason}")


def _why_not_guaranteed(trial: Trial) -> str | None:
    assert trial.outcome is not None
    seen = trial.outcome.observation
    return None if seen.guaranteed else wording.one_line(seen.exception or "it is not")


def _trait(*words: str) -> str:
    return re.sub(r"[^A-Z0-9_]", "_", "_".join((PREFIX, *words)).upper())
