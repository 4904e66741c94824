"""The libvirt element that attaches a disk so that its promise is kept.

Source: libvirt's docs/formatdomain.rst, "Hard drives, floppy disks, CDROMs".
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.strategy import Attachment

# QEMU's block/qcow2.h, MIN_REFCOUNT_CACHE_SIZE: libvirt sets the size of both caches
# together (cache-size), and the refcount cache takes this many clusters of it.
REFCOUNT_CACHE_CLUSTERS = 4


def driver(attachment: Attachment, *, observed: Observation) -> str:
    """Return the ``<driver>`` of a ``<disk>``; metadata_cache needs libvirt 7.0."""
    element = ET.Element(
        "driver",
        {
            "name": "qemu",
            "type": str(observed.format),
            "cache": attachment.cache,
            "io": attachment.io,
            "discard": attachment.discard,
            "detect_zeroes": attachment.detect_zeroes,
        },
    )
    if attachment.l2_cache_size is not None and observed.cluster_size is not None:
        size = attachment.l2_cache_size
        size += REFCOUNT_CACHE_CLUSTERS * observed.cluster_size
        cache = ET.SubElement(element, "metadata_cache")
        ET.SubElement(cache, "max_size", {"unit": "bytes"}).text = str(size)
    ET.indent(element)
    return ET.tostring(element, encoding="unicode")
