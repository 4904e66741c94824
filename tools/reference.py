"""Print a page on every public name, from the code and its comments.

docs/conf.py puts it into docs/reference/names.md while the site is built.

A field, a member or a constant is explained by ``#:``: behind it, or in lines above it.
The groups are those of docs/reference/api.md; the examples are docs/examples/*.py.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OVERVIEW = ROOT / "docs" / "reference" / "api.md"
EXAMPLES = ROOT / "docs" / "examples"

# The public modules, and the heading of their names; None: those of the overview.
MODULES: Mapping[str, str | None] = {
    "allocpolicy": None,
    "allocpolicy.commands": "Commands of a plugin",
    "allocpolicy.testing": "The conformance suite",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A field, a member of an enum, or another attribute, as the code has it."""

    name: str
    type: str
    value: str  # its default, or a member's value; may be empty
    says: str  # what explains it; may be empty


@dataclass(frozen=True, kw_only=True)
class Source:
    """A module's text."""

    lines: Sequence[str]
    tree: ast.Module

    def says(self, node: ast.stmt) -> str:
        """Return what ``#:`` says behind a statement, or in the lines above it."""
        behind = self.lines[(node.end_lineno or node.lineno) - 1].split("  #: ")
        if len(behind) > 1:
            return behind[-1]
        above = (line.strip() for line in reversed(self.lines[: node.lineno - 1]))
        said = [*takewhile(lambda line: line.startswith("#: "), above)]
        return " ".join(line.removeprefix("#: ") for line in reversed(said))

    def text(self, node: ast.stmt) -> str:
        """Return a statement as it is written, without what explains it."""
        lines = self.lines[node.lineno - 1 : node.end_lineno]
        return "\n".join((*lines[:-1], lines[-1].split("  #")[0]))

    def head(self, node: ast.FunctionDef) -> str:
        """Return a function's signature as it is written, with its decorators."""
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        text = "\n".join(self.lines[first - 1 : node.body[0].lineno - 1])
        return inspect.cleandoc(text.split("  #")[0]).removesuffix(":")


@dataclass(frozen=True, kw_only=True)
class Name:
    """A public name, and where it is defined."""

    name: str
    public: str  # the module that authors import it from
    module: str  # the one that defines it
    original: str  # what it is called there

    @property
    def title(self) -> str:
        """What it is called on the page: with its module, if that isn't allocpolicy."""
        return f"{self.public}.{self.name}".removeprefix("allocpolicy.")

    @cached_property
    def value(self) -> object:
        """What it is at run time."""
        return getattr(import_module(self.module), self.original)

    @cached_property
    def source(self) -> Source:
        """The text of the module that defines it."""
        return source_of(self.module)

    @cached_property
    def node(self) -> ast.stmt:
        """The statement that defines it."""
        return next(one for one in self.source.tree.body if self.original in names(one))

    @property
    def items(self) -> Iterator[Item]:
        """What a class's body declares, and what an error keeps, inherited or not."""
        if not isinstance(self.node, ast.ClassDef):
            return
        for one in self.node.body:
            yield from self.declared(one)
        for base in reversed(self._lineage):
            for one in base.constructor.body if base.constructor else ():
                yield from (item for item in base.declared(one) if item.says)

    def declared(self, node: ast.stmt) -> Iterator[Item]:
        """Yield what a statement of a class declares; ``self.x`` has no value here."""
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            return
        for name in filter(is_public, names(node)):
            kind = self._parameters.get(name, "")
            if isinstance(node, ast.AnnAssign):
                kind = ast.unparse(node.annotation)
            keeps = "self" in ast.unparse(node).partition("=")[0]
            value = default(node.value) if node.value and not keeps else ""
            yield Item(name=name, type=kind, value=value, says=self.source.says(node))

    @property
    def _lineage(self) -> list[Name]:
        """An error and those that it is a kind of, of the same module."""
        if not self.is_error or not inspect.isclass(self.value):
            return []
        return [
            replace(self, name=one.__name__, original=one.__name__)
            for one in self.value.__mro__
            if one.__module__ == self.module
        ]

    @property
    def methods(self) -> Iterator[ast.FunctionDef]:
        """A class's public methods and properties; a call is one, too."""
        for one in getattr(self.node, "body", ()) if self.is_class else ():
            if isinstance(one, ast.FunctionDef) and (
                is_public(one.name) or one.name == "__call__"
            ):
                yield one

    @property
    def is_class(self) -> bool:
        """Whether it is a class of ours."""
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_error(self) -> bool:
        """Whether it is an exception."""
        return self.is_class and issubclass(self.value, BaseException)  # type: ignore[arg-type]

    @property
    def constructor(self) -> ast.FunctionDef | None:
        """The ``__init__`` of an error, if it has its own."""
        made = [one for one in getattr(self.node, "body", ()) if self.is_error]
        found = [one for one in made if isinstance(one, ast.FunctionDef)]
        return next((one for one in found if one.name == "__init__"), None)

    @property
    def _parameters(self) -> dict[str, str]:
        """The types of what a constructor takes."""
        arguments = self.constructor.args.args if self.constructor else ()
        return {
            one.arg: ast.unparse(one.annotation) for one in arguments if one.annotation
        }


def is_public(name: str) -> bool:
    """Return whether a name is meant for others."""
    return not name.startswith("_")


def default(value: ast.expr) -> str:
    """Return the default that an expression gives: that of ``field()``, too."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "field"):
        return ast.unparse(value)
    given = {one.arg: one.value for one in value.keywords}
    if "default" in given:
        return ast.unparse(given["default"])
    made = given.get("default_factory")
    if isinstance(made, ast.Lambda):
        return ast.unparse(made.body)
    return f"{ast.unparse(made)}()" if made else ""


def names(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines; ``self.x`` is x."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [
        one.id if isinstance(one, ast.Name) else one.attr
        for one in targets
        if isinstance(one, ast.Name | ast.Attribute)
    ]


@cache
def source_of(module: str) -> Source:
    """Return the text of a module, which isn't imported for it."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text()
    return Source(lines=text.splitlines(), tree=ast.parse(text))


@cache
def public_names(module: str) -> tuple[Name, ...]:
    """Return the names that a public module has: its ``__all__``."""
    found = import_module(module)
    stub = Path(found.__file__ or "").with_suffix(".pyi")
    declaring = ast.parse(stub.read_text()) if stub.exists() else source_of(module).tree
    defined = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in declaring.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return tuple(
        Name(name=name, public=module, module=where, original=original)
        for name in found.__all__
        for where, original in [defined.get(name, (module, name))]
    )


def groups() -> Iterator[tuple[str, list[Name]]]:
    """Yield each heading and its names, in the order of docs/reference/api.md."""
    of_api = {one.name: one for one in public_names("allocpolicy")}
    for section in OVERVIEW.read_text().split("\n## ")[1:]:
        cells = re.findall(r"^\|(.*?)\|", section, re.MULTILINE)
        found = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
        if found:
            yield section.splitlines()[0], [of_api.pop(name) for name in found]
    yield "The version", [*of_api.values()]
    for module, heading in MODULES.items():
        if heading is not None:
            yield heading, [*public_names(module)]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A program that shows how names are used."""

    path: Path

    @cached_property
    def text(self) -> str:
        """The program."""
        return self.path.read_text()

    @cached_property
    def uses(self) -> frozenset[tuple[str, str]]:
        """The (module, name) that it imports and uses."""
        tree = ast.parse(self.text)
        loaded = {one.id for one in ast.walk(tree) if isinstance(one, ast.Name)}
        return frozenset(
            (node.module or "", alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if (alias.asname or alias.name) in loaded
        )

    def __contains__(self, name: Name) -> bool:
        return (name.public, name.name) in self.uses


def examples() -> list[Example]:
    """Return all examples."""
    return [Example(path=path) for path in sorted(EXAMPLES.glob("*.py"))]


@dataclass(kw_only=True)
class Page:
    """The page while it is written."""

    examples: Sequence[Example]
    lines: list[str] = field(default_factory=list)

    def write(self) -> str:
        """Return all of it."""
        for heading, found in groups():
            self.lines += [f"## {heading}", ""]
            for name in found:
                self._name(name)
        self.lines += ["## Examples", ""]
        for one in self.examples:
            self.lines += [f"### {one.path.name}", ""]
            self.lines += ["```python", one.text.rstrip(), "```", ""]
        return "\n".join(self.lines).rstrip() + "\n"

    def _name(self, name: Name) -> None:
        self.lines += [f"### `{name.title}`", ""]
        if isinstance(name.node, ast.FunctionDef):
            head = name.source.head(name.node)
            self._code(head.replace(f"def {name.original}", f"def {name.name}"))
            self.lines += prose(name.node)
        elif name.is_class:
            self._class(name)
        else:
            if is_public(name.name):  # a version would differ with each release
                self._code(name.source.text(name.node))
            self.lines += [f"{sentence(name.source.says(name.node))}", ""]
        self._examples(name)

    def _class(self, name: Name) -> None:
        assert isinstance(name.node, ast.ClassDef)
        self.lines += prose(name.node)
        self.lines += [kind(name), ""]
        items = [one for one in name.items if one.says]
        if items:
            self.lines += table(items)
        for method in name.methods:
            if ast.get_docstring(method):
                self._code(name.source.head(method))
                self.lines += prose(method)

    def _code(self, text: str) -> None:
        self.lines += ["```python", text, "```", ""]

    def _examples(self, name: Name) -> None:
        used = [one.path.name for one in self.examples if name in one]
        if used:
            anchor = used[0].replace(".", "")
            self.lines += [f"Example: [{used[0]}](#{anchor})", ""]


def kind(name: Name) -> str:
    """Return what kind of class it is: an error, an enum, a record."""
    assert isinstance(name.node, ast.ClassDef)
    bases = ", ".join(f"`{ast.unparse(base)}`" for base in name.node.bases)
    of = f" of {bases}" if bases else ""
    if name.is_error:
        status = getattr(name.value, "exit_status", None)
        ends = f"; exit status {status}" if status is not None else ""
        takes = ""
        if name.constructor and not name.constructor.args.vararg:
            given = [one.arg for one in name.constructor.args.args[1:]]
            takes = f" Arguments: `{', '.join(given)}`."
        return f"An error, a kind{of}{ends}.{takes}"
    stated = [
        f"`{one.name}`"
        for one in name.items
        if one.name in ("in_place", "online") and one.value == "True"
    ]
    states = f" It states {' and '.join(stated)}." if stated else ""
    if "dataclass" in "".join(map(ast.unparse, name.node.decorator_list)):
        return f"A record.{states}" if not bases else f"A record, a kind{of}.{states}"
    if "Enum" in bases:
        return "An enum; its members are strings."
    return f"A class, a kind{of}." if bases else "A class."


def table(items: Sequence[Item]) -> list[str]:
    """Return the rows that explain items."""
    rows = [
        (f"`{one.name}`", code(one.type), code(one.value), linked(one.says))
        for one in items
    ]
    return [
        "| name | type | value or default | what it is |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def code(text: str) -> str:
    """Return code for a cell of a table."""
    return f"`{text}`".replace("|", r"\|") if text else ""


def sentence(text: str) -> str:
    """Return a comment as a sentence."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def linked(text: str) -> str:
    """Return a docstring's text as Markdown."""
    return text.replace("``", "`")


def prose(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """Return a docstring as Markdown; what is raised and taken is a list."""
    text = ast.get_docstring(node) or ""
    text = re.sub(r"^:param (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    text = re.sub(r"^:raises ([\w.]+): ", r"- raises `\1` ", text, flags=re.MULTILINE)
    return [linked(text), ""] if text else []


if __name__ == "__main__":
    print(Page(examples=examples()).write(), end="")
