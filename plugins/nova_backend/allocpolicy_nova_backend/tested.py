"""Which Nova this is, and whether the backend was tested with it.

What the backend relies on in Nova is nobody's promise: the order of the calls in
``imagebackend.Qcow2.create_image``, and when ``cache`` calls ``resize_image``. So it
refuses every Nova but those that its tests have run with.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

#: the releases of Nova that ``tox -e nova_backend`` installs, one after another
VERSIONS = (
    *("31.0.0", "31.0.1", "31.1.0", "31.2.0", "31.3.0", "31.3.1"),
    *("32.0.0", "32.1.0", "32.2.0", "32.2.1"),
    *("33.0.0", "33.0.1", "33.0.2"),
    "34.0.0",
)


def refusal() -> str | None:
    """Return why the backend doesn't work with this Nova; None: it does."""
    try:
        found = version("nova")
    except PackageNotFoundError:
        return "no distribution of the name nova is installed"
    if found in VERSIONS:
        return None
    return f"this is Nova {found}, and it was tested with {', '.join(VERSIONS)} alone"
