"""The element that attaches a disk, for every strategy that is installed."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from allocpolicy.libvirt import disk_xml
from allocpolicy.registry import call, installed
from allocpolicy.testing import cases
from allocpolicy.testing.subject import subject


@pytest.mark.parametrize("name", installed.names())
def test_attachment_is_one_that_libvirt_takes(name: str) -> None:
    """`inspect --libvirt-xml` prints it; raw disks have no metadata to keep in mind."""
    tried = subject(name)
    for options in tried.option_sets:
        for observation in cases.observations():
            attachment = call.wanted_attachment(
                tried.loaded, options=options, observation=observation
            )
            element = ElementTree.fromstring(
                disk_xml.driver(attachment, observed=observation)
            )
            assert element.attrib["type"] == str(observation.format)
            assert element.attrib["discard"] == attachment.discard
            size = element.find("metadata_cache/max_size")
            cached = attachment.l2_cache_size is not None and observation.cluster_size
            assert (size is not None) == bool(cached)
