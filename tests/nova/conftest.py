"""Nova's own functions, where Nova is installed: `tox -e nova`.

What they do as root by oslo.privsep they do in this process, as in Nova's own tests; in
production a daemon calls the same functions.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

INSTALLED = importlib.util.find_spec("nova") is not None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the directory to the environment of tox that has Nova."""
    return None if INSTALLED else True


@pytest.fixture(scope="session", autouse=True)
def nova_conf() -> None:
    """Configure Nova by nobody's files, and let no daemon be started."""
    import nova.conf
    import nova.privsep

    nova.conf.CONF([], project="nova", default_config_files=[], default_config_dirs=[])
    nova.privsep.sys_admin_pctxt.set_client_mode(False)
