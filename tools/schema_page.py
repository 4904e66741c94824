"""Print a page on the JSON that allocpolicy reads and prints, from schemas/*.json.

docs/conf.py puts it into docs/reference/json.md while the site is built.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "schemas"
PACKAGE = SCHEMAS / "__init__.py"

Schema = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Field:
    """A place in a document."""

    path: str  # dots lead into objects, [] to each item of an array
    type: str
    says: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """A schema, as a file says it."""

    path: Path
    schema: Schema

    def fields(self) -> Iterator[Field]:
        """Yield every place that the schema names, from the top down."""
        yield from self._below(self.schema, at="")

    def _below(self, schema: Schema, *, at: str) -> Iterator[Field]:
        for one in self._alternatives(schema):
            if "items" in one:
                yield from self._below(one["items"], at=f"{at}[]")
            inner = dict(one.get("properties", {}))
            if isinstance(one.get("additionalProperties"), Mapping):
                inner["*"] = one["additionalProperties"]
            for name, said in inner.items():
                path = f"{at}.{name}".lstrip(".")
                row = Field(path=path, type=self._type(said), says=self._says(said))
                if row.says or name != "*":  # what it is in says what its values are
                    yield row
                yield from self._below(said, at=path)

    def _alternatives(self, schema: Schema) -> list[Schema]:
        """Return a schema, and those that it stands for."""
        found = [schema]
        if "$ref" in schema:
            found += self._alternatives(self._referred(schema["$ref"]))
        for word in ("anyOf", "oneOf", "allOf"):
            for one in schema.get(word, ()):
                found += self._alternatives(one)
        return found

    def _referred(self, reference: str) -> Schema:
        found: Any = self.schema
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
        referred: Schema = found
        return referred

    def _type(self, schema: Schema) -> str:
        words: dict[str, None] = {}
        for one in self._alternatives(schema):
            for word in types(one):
                words[word] = None
        return " or ".join(words)

    def _says(self, schema: Schema) -> str:
        said = (one.get("description", "") for one in self._alternatives(schema))
        return next(filter(None, said), "")


def types(schema: Schema) -> Iterator[str]:
    """Yield the types that a schema says itself, or its values if they are listed."""
    if "const" in schema:
        yield json.dumps(schema["const"])
    elif "enum" in schema:
        yield from map(json.dumps, schema["enum"])
    else:
        said = schema.get("type", [])
        yield from [said] if isinstance(said, str) else said


def documents() -> list[Document]:
    """Return every schema, by its file's name."""
    return [
        Document(path=path, schema=json.loads(path.read_text()))
        for path in sorted(SCHEMAS.glob("*.json"))
    ]


def table(fields: Sequence[Field]) -> Iterator[str]:
    """Yield the rows of a table; a place that two alternatives have stands once."""
    yield from ("| field | type | what it is |", "|---|---|---|")
    first: dict[str, Field] = {}
    for one in fields:
        first.setdefault(one.path, one)
    for one in first.values():
        says = one.says.replace("|", r"\|").replace("<", r"\<").replace("*", r"\*")
        yield f"| `{one.path}` | {one.type} | {says} |"


def of_commands() -> Iterator[str]:
    """Yield the rows of a table that tells which schema is whose."""
    yield from ("| command | schema |", "|---|---|")
    whose: Mapping[str, str] = runpy.run_path(str(PACKAGE))["OF_COMMANDS"]
    for command, name in whose.items():
        yield f"| `{command}` | [{name}](#schema-{name}) |"


def write() -> str:
    """Return all of it."""
    lines = [*of_commands(), ""]
    for one in documents():
        name = one.path.name
        lines += [f"(schema-{one.path.stem})=", f"## {one.schema['title']}", ""]
        lines += [one.schema.get("description", ""), ""]
        lines += [f"{{download}}`{name} <../../schemas/{name}>`", ""]
        lines += [*table([*one.fields()]), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(write())
