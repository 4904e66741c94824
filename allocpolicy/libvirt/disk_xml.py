"""The libvirt elements that attach a disk so that its promise is kept.

Source: libvirt's docs/formatdomain.rst, "Hard drives, floppy disks, CDROMs".
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from allocpolicy.contract.facts import Observation
from allocpolicy.contract.policy import Version
from allocpolicy.contract.strategy import Attachment

# QEMU's block/qcow2.h, MIN_REFCOUNT_CACHE_SIZE: libvirt sets the size of both caches
# together (cache-size), and the refcount cache takes this many clusters of it.
REFCOUNT_CACHE_CLUSTERS = 4


# libvirt's docs/formatdomain.rst and NEWS.rst; an older one ignores what it doesn't
# know, or refuses it (virsh define --validate).
DISCARD_NO_UNREF = (9, 5)
DISCARD_GRANULARITY = (9, 7)


def driver(
    attachment: Attachment, *, observed: Observation, libvirt: Version | None = None
) -> str:
    """Return the ``<driver>`` of a ``<disk>``; metadata_cache needs libvirt 7.0.

    It has no word for QEMU's cache-clean-interval.

    :param libvirt: the version that will read it; None: nothing newer is used.
    """
    words = {"name": "qemu", "type": str(observed.format)}
    words |= attributes(attachment, libvirt=libvirt)
    element = ET.Element("driver", words)
    size = cache_size(attachment, observed=observed)
    if size is not None:
        cache = ET.SubElement(element, "metadata_cache")
        ET.SubElement(cache, "max_size", {"unit": "bytes"}).text = str(size)
    ET.indent(element)
    return ET.tostring(element, encoding="unicode")


def attributes(
    attachment: Attachment, *, libvirt: Version | None = None
) -> Mapping[str, str]:
    """Return the attributes of the ``<driver>`` by which the promise is kept."""
    words = {
        "cache": attachment.cache,
        "io": attachment.io,
        "discard": attachment.discard,
        "detect_zeroes": attachment.detect_zeroes,
    }
    if attachment.discard_no_unref and _is_known(DISCARD_NO_UNREF, libvirt=libvirt):
        words["discard_no_unref"] = "on"
    return words


def cache_size(attachment: Attachment, *, observed: Observation) -> int | None:
    """Return the bytes of QEMU's caches of a qcow2's tables; None: its own default."""
    if attachment.l2_cache_size is None or observed.cluster_size is None:
        return None
    return attachment.l2_cache_size + REFCOUNT_CACHE_CLUSTERS * observed.cluster_size


def blockio(attachment: Attachment, *, libvirt: Version | None) -> str | None:
    """Return the ``<blockio>`` of a ``<disk>``, or None if it would say nothing."""
    granularity = discard_granularity(attachment, libvirt=libvirt)
    if granularity is None:
        return None
    element = ET.Element("blockio", {"discard_granularity": str(granularity)})
    return ET.tostring(element, encoding="unicode")


def discard_granularity(
    attachment: Attachment, *, libvirt: Version | None
) -> int | None:
    """Return the bytes of the smallest discard that a guest shall send, if any."""
    known = _is_known(DISCARD_GRANULARITY, libvirt=libvirt)
    return attachment.discard_granularity if known else None


def _is_known(since: Version, *, libvirt: Version | None) -> bool:
    return libvirt is not None and libvirt >= since
