"""The hook's process: what libvirt runs before it starts a VM.

It is called as libvirt calls a hook (docs/hooks.rst), with NAME OPERATION SUBOPERATION
EXTRA, and the domain's XML on standard input. What a domain without a policy needs is
imported here, and nothing else.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from allocpolicy.libvirt import descriptors, document, metadata
from allocpolicy.libvirt.document import Element
from allocpolicy.resolve import config_mention
from allocpolicy.storage import lock_list

PREPARE = "prepare"
_OPERATIONS = {(PREPARE, "begin"), ("migrate", "begin"), ("restore", "begin")}
_DEFAULT = "libvirt_default"


def run() -> None:
    """Serve one call of the hook, and end the process with its exit status.

    It ends at once: the VM would wait for a thread that a strategy has left.
    """
    os._exit(main())


def main() -> int:
    """Serve one call of the hook; return its exit status, 0 if the VM may start."""
    if tuple(sys.argv[2:4]) not in _OPERATIONS:
        return 0
    started, who = time.monotonic(), sys.argv[1]
    gc.set_threshold(50_000)  # imports create tens of thousands of lasting objects
    line = descriptors.Line()
    status, said = 0, ""
    try:
        domain = document.read(descriptors.read(document.MOST_BYTES))
        who = document.uuid(domain)
        _serve(sys.argv[2], domain)
    except BaseException as error:  # noqa: BLE001  (whatever it is: the VM must wait)
        from allocpolicy.libvirt import failure

        status, said = failure.told(error, domain=who, started=started)
    line.write(said)
    return status


def _serve(operation: str, domain: Element) -> None:
    """Do what is to be done before the domain starts; raise what prevents it."""
    said = metadata.said(domain)
    if not (said.specs or config_mention.mentioned(_DEFAULT)):
        return
    if operation == PREPARE:
        lock_list.read_ahead()  # which takes as long as it does to import the rest
        from allocpolicy.libvirt import start

        start.begin(domain, said=said)
    else:
        from allocpolicy.libvirt import notes

        notes.leave(operation, uuid=document.uuid(domain))
