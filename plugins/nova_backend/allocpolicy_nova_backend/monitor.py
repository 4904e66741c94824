"""What nova-compute loads at its start: it puts the backend in, if it is enabled.

Nova constructs each entry point of ``nova.compute.monitors.cpu``, and asks afterwards
whether ``compute_monitors`` lists it (nova/compute/monitors/__init__.py). So nothing
happens on import, and the constructor asks the same question itself. Then it declines
to be a monitor: Nova believes only those in its own package.
"""

from __future__ import annotations

import logging

NAME = "allocpolicy"
# The ways to write it that Nova understands.
SPELLINGS = {NAME, f"cpu.{NAME}", f"nova.compute.monitors.cpu.{NAME}"}

LOG = logging.getLogger(__name__)


class NotAMonitor(Exception):
    """It measures nothing; stevedore leaves out what raises."""


class Monitor:
    """The backend's way into nova-compute."""

    def __init__(self, tracker: object) -> None:
        """Put the backend in if the operator enabled it.

        :param tracker: Nova's resource tracker.
        :raises NotAMonitor: always; stevedore's line about that is not logged.
        """
        logging.getLogger("stevedore.extension").addFilter(_is_news)
        if is_enabled():
            put_in()
        raise NotAMonitor(NAME)


def is_enabled() -> bool:
    """Return whether nova.conf lists the backend among its ``compute_monitors``."""
    import nova.conf

    return not SPELLINGS.isdisjoint(nova.conf.CONF.compute_monitors)


def put_in() -> None:
    """Put the backend into Nova, or say in one line why Nova works as without it."""
    from allocpolicy_nova_backend import tested

    why = tested.refusal()
    if why is None:
        try:
            from allocpolicy_nova_backend import backend

            backend.put_in()
        except Exception as error:  # noqa: BLE001  (whatever it is, Nova works on)
            why = f"{type(error).__name__}: {error}"
    if why is None:
        LOG.info("qcow2 disks are made under the policies of their flavors")
    else:
        LOG.error("disks are made as without allocpolicy-nova-backend: %s", why)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a record is about something else than our declining."""
    said = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(one, NotAMonitor) for one in said)
