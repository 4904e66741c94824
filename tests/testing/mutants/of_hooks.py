"""Mutants whose other hooks are wrong: observe, attach, exclusive, migrate."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from allocpolicy import Attachment, Facts, Host, Observation, Plan, Request
from tests.testing.mutants.healthy import Healthy, Options


class _Attached(Healthy):
    """Attaches a disk with other words."""

    words: Mapping[str, Any] = {}

    def attach(self, *, options: Options, observation: Observation) -> Attachment:
        given = super().attach(options=options, observation=observation)
        return replace(given, **self.words)


class MisspellsCache(_Attached):
    """Attaches with a cache mode that QEMU doesn't have."""

    words = {"cache": "writback"}


class AttachesWithoutAio(_Attached):
    """Attaches with io=native and a cache that QEMU doesn't combine with it."""

    words = {"cache": "writeback", "io": "native"}


class UnmapsWithoutDiscard(_Attached):
    """Attaches with detect_zeroes=unmap and ignores discards, which QEMU refuses."""

    words = {"detect_zeroes": "unmap", "discard": "ignore"}


class AttachesInWords(_Attached):
    """Attaches with a size as a string."""

    words = {"l2_cache_size": "32M"}


class AttachesAnything(Healthy):
    """Attaches with a mapping in place of an `Attachment`."""

    def attach(  # type: ignore[override]
        self, *, options: Options, observation: Observation
    ) -> Mapping[str, str]:
        return {"discard": "ignore", "cache": "none", "io": "native"}


class ObservesByWriting(Healthy):
    """Tries in the disk's directory whether it can write."""

    def observe(
        self, *, request: Request, options: Options, host: Host
    ) -> Mapping[str, object]:
        (host.directory / ".healthy-probe").write_bytes(b"x")
        return {}


class ObservesNothing(Healthy):
    """Forgets to return what it observes."""

    def observe(  # type: ignore[override]
        self, *, request: Request, options: Options, host: Host
    ) -> None:
        return None


class ObservesAnObject(Healthy):
    """Observes an open file, which can't be recorded."""

    def observe(
        self, *, request: Request, options: Options, host: Host
    ) -> Mapping[str, object]:
        return {"directory": iter(())}


class LocksAnything(Healthy):
    """Returns another lock's name each time."""

    def exclusive(self, *, request: Request, options: Options) -> str | None:
        return f"healthy-{uuid.uuid4()}"


class LocksAPath(Healthy):
    """Returns a path in place of a name."""

    def exclusive(  # type: ignore[override]
        self, *, request: Request, options: Options
    ) -> object:
        return request.destination.parent


class LocksTheNamelessOne(Healthy):
    """Returns an empty name where it needs no lock."""

    def exclusive(self, *, request: Request, options: Options) -> str | None:
        return ""


class LosesOptions(Healthy):
    """Returns only the options that were renamed."""

    def migrate(self, *, options: Options, version: str | None) -> Mapping[str, object]:
        return {
            new: options[old]
            for old, new in {"zero": "zeroes"}.items()
            if old in options
        }


class MigratesInPlace(Healthy):
    """Renames options in the mapping that it gets."""

    def migrate(self, *, options: Options, version: str | None) -> Mapping[str, object]:
        options["zeroes"] = options.pop("zero", False)  # type: ignore[index,attr-defined]
        return options


class MigratesToNothing(Healthy):
    """Forgets to return the options."""

    def migrate(  # type: ignore[override]
        self, *, options: Options, version: str | None
    ) -> None:
        return None


class ComparesVersions(Healthy):
    """Takes for granted that a stamp has a version."""

    def migrate(self, *, options: Options, version: str | None) -> Mapping[str, object]:
        assert version is not None
        return options if version.startswith("1.") else {"zeroes": False}


def _with_option(name: str, option: Mapping[str, object]) -> Mapping[str, object]:
    """Return the options with one more."""
    schema = dict(Healthy.options_schema)
    properties = schema["properties"]
    assert isinstance(properties, dict)
    described = {"description": "one more", **option}
    return {**schema, "properties": {**properties, name: described}}


class CantBeGiven(Healthy):
    """Has an option whose value an extra spec can't give: a list of lists."""

    options_schema = _with_option(
        "ranges", {"type": "array", "items": {"type": "string"}, "default": ["0,4"]}
    )


class HasNoWords(Healthy):
    """Has an option without a description."""

    options_schema = _with_option(
        "more", {"type": "boolean", "default": False, "description": " "}
    )


class IsTooLong(Healthy):
    """Has options that don't fit into a stamp."""

    options_schema = _with_option("key", {"type": "string", "default": "k" * 65536})


class PlansWithAnother(Healthy):
    """Keeps the facts of one disk for the next."""

    seen: Facts | None = None

    def plan(self, *, request: Request, options: Options, facts: Facts) -> Plan:
        self.seen = self.seen or facts
        return super().plan(request=request, options=options, facts=self.seen)
