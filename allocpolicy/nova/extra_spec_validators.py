"""What nova-api checks of flavors' extra specs, from API microversion 2.86 on.

Nova loads the entry points of the group ``nova.api.extra_spec_validators`` when its API
starts, and calls their `register`. What that raised would keep the API from starting.
Nova is imported only there: whoever else looks at entry points has no Nova.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from allocpolicy.nova import known_keys

if TYPE_CHECKING:
    from nova.api.validation.extra_specs.base import ExtraSpecValidator

    from allocpolicy.nova.known_keys import Key

# Nova knows these three; whatever else a schema says, `validate` asks us.
_TYPES = {"integer": int, "boolean": bool}
_WORDS = {"minimum": "min", "maximum": "max", "pattern": "pattern"}


def register() -> list[ExtraSpecValidator]:
    """Return a validator for each key that the installed strategies know."""
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

    return [Validator(key) for key in known_keys.find()]


def _value(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in Nova's words, which its documentation is made of."""
    value: dict[str, Any] = {"type": _TYPES.get(rule["type"], str)}
    value |= {word: rule[name] for name, word in _WORDS.items() if name in rule}
    if "enum" in rule:
        value["enum"] = [
            one if isinstance(one, str) else json.dumps(one) for one in rule["enum"]
        ]
    return value
