"""What nova-api checks of flavors' extra specs, from API microversion 2.86 on.

Nova loads the entry points of the group ``nova.api.extra_spec_validators`` when its API
starts, and calls their `register`. What that raised, or the import of this module,
would keep the API from starting. Nova is imported only there: whoever else looks at
entry points has no Nova.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from allocpolicy import wording

if TYPE_CHECKING:
    from nova.api.validation.extra_specs.base import ExtraSpecValidator

    from allocpolicy.nova.known_keys import Key

LOG = logging.getLogger(__name__)

# Nova knows these three; whatever else a schema says, `validate` asks us.
_TYPES = {"integer": int, "boolean": bool}
_WORDS = {"minimum": "min", "maximum": "max", "pattern": "pattern"}


def register() -> list[ExtraSpecValidator]:
    """Return a validator for each key that the installed strategies know.

    Where that isn't to be found out, none is returned, which the log says.
    """
    from nova import exception
    from nova.api.validation.extra_specs import base

    class Validator(base.ExtraSpecValidator):  # type: ignore[misc]
        """Refuses what provisioning would refuse, in the same words."""

        def __init__(self, key: Key) -> None:
            about = str(key.rule.get("description", ""))
            super().__init__(name=key.name, description=about, value=_value(key.rule))
            self.key = key
            # Nova takes the name for a pattern, whose dots match anything.
            self.name_regex = re.escape(key.name)

        def validate(self, name: str, value: object) -> None:
            """Refuse a value that the strategy's schema doesn't allow.

            :raises nova.exception.ValidationError: which the API answers with 400.
            """
            reason = self.key.refusal(str(value))
            if reason is not None:
                raise exception.ValidationError(
                    f"Validation failed; {name} = {str(value)!r}: {reason}"
                )

    found = []
    with _logged("No extra spec of allocpolicy is checked"):
        from allocpolicy.nova import known_keys

        for key in known_keys.find():
            with _logged(f"The extra spec {key.name} is refused"):
                found.append(Validator(key))
    return found


@contextlib.contextmanager
def _logged(consequence: str) -> Iterator[None]:
    """Log what the body raises, and what follows from it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (the API must start)
        LOG.error("%s: %s", consequence, wording.raised(error))  # noqa: TRY400


def _value(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in Nova's words, which its documentation is made of."""
    value: dict[str, Any] = {"type": _TYPES.get(rule["type"], str)}
    value |= {word: rule[name] for name, word in _WORDS.items() if name in rule}
    if "enum" in rule:
        value["enum"] = [
            one if isinstance(one, str) else json.dumps(one) for one in rule["enum"]
        ]
    return value
