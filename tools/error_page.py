"""Print a table of the errors, from allocpolicy/errors.py.

docs/conf.py puts it into docs/reference/errors.md while the site is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from allocpolicy import errors


def classes() -> list[type[errors.Error]]:
    """Return every class of errors, in the order of its module."""
    return [
        one
        for one in vars(errors).values()
        if inspect.isclass(one) and issubclass(one, errors.Error)
    ]


def rows() -> Iterator[str]:
    """Yield the table's rows."""
    yield from ("| error | exit status | when | message |", "|---|---|---|---|")
    for one in classes():
        first, _, _ = (inspect.getdoc(one) or "").partition("\n\n")
        when = " ".join(first.split()).partition(": ``(")[0].rstrip(".")
        name = f"[`{one.__name__}`](names.md#{one.__name__.lower()})"
        yield f"| {name} | {one.exit_status} | {when} | `{one.template}` |"


def write() -> str:
    """Return all of it: the tree of errors, and the table."""
    tree = (errors.__doc__ or "").split("\n\n")[1]
    return "\n".join(["```text", tree, "```", "", *rows(), ""])


if __name__ == "__main__":
    print(write())
