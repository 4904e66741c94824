"""A domain's XML is hostile input; what is ours of its disks, and its policy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocpolicy import DiskFormat, DiskRole, DomainError
from allocpolicy.libvirt import domain as domains
from allocpolicy.libvirt.document import MOST_BYTES
from allocpolicy.libvirt.domain import Domain
from tests.harness.domains import PROJECT, UUID, disk, domain, nova, own

DISK = Path("/var/lib/nova/instances") / UUID / "disk"
SPACE = {"allocpolicy:strategy": "space"}


def parsed(*disks: str, metadata: str = "") -> Domain:
    return domains.parse(domain(*disks, metadata=metadata))


def refusal(xml: bytes) -> str:
    with pytest.raises(DomainError) as caught:
        domains.parse(xml)
    said = str(caught.value)
    assert said.isprintable()
    return said


class TestDocument:
    """What is no plain document of a domain is refused."""

    def test_a_document_of_the_largest_size_is_read_and_one_byte_more_is_not(
        self,
    ) -> None:
        xml = domain(disk(DISK))
        whole = xml + b" " * (MOST_BYTES - len(xml))
        assert domains.parse(whole).uuid == UUID
        assert "1048576" in refusal(whole + b" ")

    @pytest.mark.parametrize("length", [0, 1, 7, 100, 300, 400])
    def test_one_that_was_cut_short_is_refused(self, length: int) -> None:
        assert "not well-formed" in refusal(domain(disk(DISK))[:length])

    @pytest.mark.parametrize(
        "prolog",
        [
            "<!DOCTYPE domain>",
            "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'>",
            "<!DOCTYPE domain [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>",
            "<!DOCTYPE d [<!ENTITY % p SYSTEM 'http://127.0.0.1/x'> %p;]>",
        ],
    )
    def test_a_document_type_is_refused(self, prolog: str) -> None:
        assert "DOCTYPE" in refusal(prolog.encode() + domain(disk(DISK)))

    def test_an_entity_that_nobody_declares_is_refused(self) -> None:
        assert "undefined entity" in refusal(domain(disk(DISK, inside="&a;")))

    @pytest.mark.parametrize(
        "inside",
        [
            "<a>" * 300 + "</a>" * 300,
            "<a/>" * 60_000,
            "<a " + " ".join(f"x{n}='1'" for n in range(300)) + "/>",
            "<a x='1' x='2'/>",
            "<p:a/>",
        ],
        ids=["deep", "many", "attributes", "same attribute", "unbound prefix"],
    )
    def test_more_than_any_domain_has_is_refused(self, inside: str) -> None:
        refusal(domain(disk(DISK, inside=inside)))

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
    def test_a_path_is_the_same_in_every_encoding(self, encoding: str) -> None:
        found = domains.parse(domain(disk("/srv/größe"), encoding=encoding))
        assert os.fsencode(found.disks[0].path) == "/srv/größe".encode()

    @pytest.mark.parametrize("encoding", ["utf-7", "koi8-r", "idna", "no-such"])
    def test_other_encodings_are_refused(self, encoding: str) -> None:
        xml = domain(disk(DISK))
        refusal(f"<?xml version='1.0' encoding='{encoding}'?>".encode() + xml)

    @pytest.mark.parametrize(
        "xml",
        [
            b"<network/>",
            domain(uuid=""),
            domain(uuid="../../etc/passwd"),
            domain(uuid=UUID.upper()),
            domain(uuid=f"{UUID}\n{UUID}"),
            domain().replace(b"<uuid>", b"<uuid>x</uuid><uuid>"),
            domain().replace(b"<devices>", b"<devices/><devices>"),
            domain().replace(b"<domain", b"<domain xmlns='urn:other'"),
        ],
    )
    def test_what_no_domain_of_libvirt_is_like_is_refused(self, xml: bytes) -> None:
        refusal(xml)

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def test_whatever_is_given_is_a_domain_or_refused(
        self, data: st.DataObject
    ) -> None:
        xml = bytearray(domain(disk(DISK), metadata=nova(SPACE) + own({"a": "b"})))
        for _ in range(data.draw(st.integers(1, 8))):
            at = data.draw(st.integers(0, len(xml) - 1))
            piece = data.draw(
                st.binary(max_size=3) | st.sampled_from([b"<a>", b"</a>", b"'", b"&"])
            )
            xml[at : at + data.draw(st.integers(0, 40))] = piece
            if not xml:
                break
        try:
            found = domains.parse(bytes(xml))
        except DomainError as error:
            assert str(error).isprintable()
        else:
            assert all(one.path.is_absolute() for one in found.disks)


class TestDisks:
    """Ours are the local files that the domain alone writes to."""

    def test_a_disk_is_as_libvirt_gives_it(self) -> None:
        (found,) = parsed(disk(DISK, format="raw", driver="discard='unmap'")).disks
        assert (found.target, found.path, found.format) == ("vda", DISK, DiskFormat.RAW)
        assert found.driver["discard"] == "unmap"
        assert not (found.backed or found.terminated or found.may_be_missing)

    @pytest.mark.parametrize(
        ("element", "reason"),
        [
            (disk(DISK, inside="<readonly/>"), "read-only"),
            (disk(DISK, inside="<shareable/>"), "shareable"),
            (disk(DISK, inside="<transient/>"), "transient"),
            (disk(DISK, inside="<encryption format='luks'/>"), "encrypted"),
            (disk(DISK, inside="<mirror type='file'/>"), "block copy"),
            (disk(DISK, source="<encryption format='luks'/>"), "encrypted"),
            (disk(DISK, source="<slices/>"), "slice"),
            (disk(DISK, source="<dataStore type='file'/>"), "another file"),
            (disk(DISK, source="<reservations managed='yes'/>"), "reservations"),
            (disk(DISK, device="cdrom"), "cdrom"),
            (disk(DISK, device="floppy"), "floppy"),
            (disk(DISK, device="lun"), "lun"),
            (disk(DISK, format="qed"), "qed"),
            (disk(DISK, format=""), "format"),
            (disk(f"{DISK}.rescue"), "rescue"),
            (disk("/i/disk.config"), "configuration"),
            (disk("/i/disk.config.sr1"), "configuration"),
            (disk("disk"), "absolute"),
            (disk("/i/disk/"), "directory"),
            (disk("/i/disk/.."), "directory"),
            (disk(""), "no file"),
            (disk(DISK).replace("'file' dev", "'block' dev"), "block"),
            (disk(DISK).replace("'file' dev", "'network' dev"), "network"),
            (disk(DISK).replace("'file' dev", "'dir' dev"), "dir"),
            (disk(DISK).replace("'file' dev", "'volume' dev"), "volume"),
            (disk(DISK).replace("'file' dev", "'nvme' dev"), "nvme"),
            (disk(DISK).replace("'file' dev", "'vhostuser' dev"), "vhostuser"),
            (disk(DISK).replace("<source ", "<source fdgroup='g' "), "descriptor"),
            ("<disk type='file'/>", "no file"),
            ("<disk/>", "no file"),
        ],
    )
    def test_what_a_domain_does_not_write_to_alone_is_skipped(
        self, element: str, reason: str
    ) -> None:
        found = parsed(element)
        assert not found.disks
        assert reason in found.others[0].reason

    def test_a_disk_of_a_namespace_is_none(self) -> None:
        other = disk(DISK).replace("<disk ", "<q:disk xmlns:q='urn:q' ")
        found = parsed(other.replace("</disk", "</q:disk"))
        assert not (found.disks or found.others)

    @pytest.mark.parametrize("name", ["driver", "source", "target", "backingStore"])
    def test_an_element_that_is_there_twice_is_refused(self, name: str) -> None:
        inside = f"<{name} type='qcow2'/><{name}/>"
        refusal(domain(disk(DISK, inside=inside)))

    def test_the_same_file_twice_is_refused(self) -> None:
        twice = domain(disk(DISK), disk(DISK, target="vdb"))
        assert "the same file" in refusal(twice)

    def test_what_the_xml_says_of_the_images_below(self) -> None:
        store = "<backingStore type='file'><source file='/b'/></backingStore>"
        (backed,) = parsed(disk(DISK, inside=store)).disks
        (terminated,) = parsed(disk(DISK, inside="<backingStore/>")).disks
        assert (backed.backed, backed.terminated) == (True, False)
        assert (terminated.backed, terminated.terminated) == (False, True)

    @pytest.mark.parametrize("when", ["optional", "requisite", "mandatory"])
    def test_a_disk_that_libvirt_may_drop(self, when: str) -> None:
        element = disk(DISK).replace("<source ", f"<source startupPolicy='{when}' ")
        (found,) = parsed(element).disks
        assert found.may_be_missing is (when != "mandatory")


class TestRoles:
    """Which of the instance's disks a disk is."""

    def test_nova_names_its_disks(self) -> None:
        names = ["disk.swap", "disk.eph0", "disk.local", "disk"]
        found = parsed(
            *(disk(f"/i/{name}", target=name) for name in names), metadata=nova({})
        )
        assert [one.role for one in found.disks] == [
            DiskRole.SWAP,
            DiskRole.EPHEMERAL,
            DiskRole.EPHEMERAL,
            DiskRole.ROOT,
        ]

    def test_a_volume_of_nova_is_none_of_the_flavors_disks(self) -> None:
        volume = disk("/mnt/volume-1", inside="<serial>1</serial>")
        found = parsed(volume, metadata=nova(SPACE))
        assert not found.disks
        assert "volume" in found.others[0].reason
        assert parsed(volume, metadata=own({"strategy": "space"})).disks

    def test_elsewhere_the_first_disk_is_the_root(self) -> None:
        """But those that have a name that says what they are."""
        found = parsed(
            disk("/i/a.iso", device="cdrom"),
            disk("/i/web1.qcow2"),
            disk("/i/disk", target="vdb"),
            disk("/i/disk.swap", target="vdc"),
        )
        assert [one.role for one in found.disks] == [
            DiskRole.ROOT,
            DiskRole.EPHEMERAL,
            DiskRole.SWAP,
        ]


class TestPolicy:
    """What the metadata says of the disks."""

    @pytest.mark.parametrize("version", ["1.0", "1.1", "1.12", "2.0", "2"])
    def test_it_is_the_flavors(self, version: str) -> None:
        specs = {**SPACE, "hw:cpu_policy": "dedicated"}
        found = parsed(metadata=nova(specs, version=version) + own({"strategy": "x"}))
        assert (found.origin, found.specs, found.flavor) == ("nova", specs, "m1.fast")
        assert found.labels == {"project": PROJECT}
        assert found.nova

    def test_else_it_is_our_own_element(self) -> None:
        specs = {"strategy": " space\n", "strategy.root": "performance"}
        found = parsed(metadata=nova({"hw:x": "y"}) + own(specs))
        assert found.origin == "metadata"
        assert found.specs == {
            "allocpolicy:strategy": "space",
            "allocpolicy:strategy.root": "performance",
        }

    @pytest.mark.parametrize("metadata", ["", own({}), nova({}), nova({"hw:x": "y"})])
    def test_else_there_is_none(self, metadata: str) -> None:
        found = parsed(metadata=metadata)
        assert (found.origin, found.specs) == ("", {})

    def test_another_prefix_is_the_same_namespace(self) -> None:
        metadata = nova(SPACE).replace("nova:", "n:").replace("xmlns:nova", "xmlns:n")
        assert parsed(metadata=metadata).specs == SPACE

    def test_the_newer_of_two_novas_counts(self) -> None:
        """An upgraded Nova that attaches a port leaves its predecessor's element."""
        old = nova({"allocpolicy:strategy": "none"}, version="1.0")
        assert parsed(metadata=nova(SPACE) + old).specs == SPACE

    @pytest.mark.parametrize(
        "metadata",
        [
            nova(SPACE) * 2,
            own({"a": "b"}) * 2,
            own({"a": "b"}).replace("</ap:policy>", "<ap:spec name='a'/></ap:policy>"),
            own({"": "b"}),
            own({}).replace("></ap", "><ap:strategy/></ap"),
            nova(SPACE).replace(
                "</nova:extraSpecs>",
                "<nova:extraSpec name='allocpolicy:strategy'/></nova:extraSpecs>",
            ),
        ],
    )
    def test_what_is_ambiguous_or_read_by_nobody_is_refused(
        self, metadata: str
    ) -> None:
        refusal(domain(metadata=metadata))

    def test_other_namespaces_say_nothing(self) -> None:
        other = nova(SPACE).replace("openstack.org", "example.org")
        assert not parsed(metadata=other).specs
        assert not parsed(metadata=own({"a": "b"}).replace("y:1", "y:2")).specs
