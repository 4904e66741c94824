"""The commands about domains, on those of libvirt's test driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from tests.harness import domains, images, logs
from tests.harness.cli import Finished, allocpolicy, provision
from tests.harness.images import MIB
from tests.harness.schemas import validated

if TYPE_CHECKING:
    import libvirt
else:
    libvirt = pytest.importorskip("libvirt", reason="its library is not installed")

NAMESPACE = "urn:x-allocpolicy:1"


@pytest.fixture
def host() -> Iterator[libvirt.virConnect]:
    """Keep the test driver's host, with one domain of its own, for a test."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open(domains.TEST_DRIVER)
    yield connection
    for domain in connection.listAllDomains():  # failed tests keep connections open
        transient = not domain.isPersistent()
        if domain.isActive():
            domain.destroy()
        if not transient:
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
    connection.close()


def run(command: str, *arguments: object) -> Finished:
    """Run a command about domains of the test driver."""
    words = ("libvirt", *command.split())
    done = allocpolicy(*words, *arguments, "--connect", domains.TEST_DRIVER)
    if "json" in (*words, *arguments) and done.stdout:
        validated(done, command=" ".join(words[:2]))
    return done


def shown(*arguments: object) -> dict[str, Any]:
    """Return what a command shows as data."""
    done = run(*map(str, arguments), "-f", "json")
    assert done.status == 0, done.stderr
    found: dict[str, Any] = done.document
    return found


def own_metadata(domain: libvirt.virDomain, flags: int) -> str | None:
    """Return our element of a definition."""
    try:
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        text: str = domain.metadata(kind, NAMESPACE, flags)
    except libvirt.libvirtError:
        return None
    return text


BOTH = (1, 2)  # VIR_DOMAIN_AFFECT_LIVE, VIR_DOMAIN_AFFECT_CONFIG


class TestPolicy:
    """set, show and unset."""

    def test_what_is_set_is_in_each_definition_and_what_the_hook_reads(
        self, host: libvirt.virConnect, tmp_path: Path
    ) -> None:
        """Those of the running VM and of the next start; each change is logged."""
        disks = (
            domains.disk(tmp_path / "one"),
            domains.disk(tmp_path / "two", target="vdb", format="raw"),
        )
        domain = host.defineXML(domains.defined("web", *disks))
        domain.create()
        found = shown("set", "web", "strategy=performance", "strategy.ephemeral=space")
        found |= shown("set", "web", "allocpolicy:performance.data=falloc")
        assert found["specs"] == {
            "allocpolicy:strategy": "performance",
            "allocpolicy:strategy.ephemeral": "space",
            "allocpolicy:performance.data": "falloc",
        }
        assert found == shown("show", domain.UUIDString())
        first, second = found["disks"]
        assert (first["role"], first["strategy"]) == ("root", "performance")
        assert first["options"]["data"] == "falloc"
        assert (second["role"], second["strategy"]) == ("ephemeral", "space")
        live, config = (own_metadata(domain, flags) for flags in BOTH)
        assert live == config != None  # noqa: E711
        assert run("unset web strategy").status == 0
        assert shown("show", "web")["origin"] == "metadata"
        assert run("unset web").status == 0
        assert [own_metadata(domain, flags) for flags in BOTH] == [None, None]
        assert shown("show", "web")["origin"] is None

    @pytest.mark.parametrize("active", [False, True])
    def test_a_domain_may_have_one_definition_alone(
        self, host: libvirt.virConnect, active: bool
    ) -> None:
        """A transient one runs, and one that is shut off has that of its next start."""
        text = domains.defined("alone")
        domain = host.createXML(text) if active else host.defineXML(text)
        assert shown("set", "alone", "strategy=space")["origin"] == "metadata"
        assert own_metadata(domain, 0)
        assert run("unset alone").status == 0
        assert own_metadata(domain, 0) is None

    def test_each_change_of_a_definition_is_logged(
        self, host: libvirt.virConnect
    ) -> None:
        """And what leaves it as it is isn't."""
        domain = host.defineXML(domains.defined("logged"))
        changes = ("set logged strategy=space", "unset logged strategy")
        with logs.listening() as log:
            for words in changes:
                assert run(words).status == 0
                (record,) = log.records()
                assert record["OPERATION"] == f"libvirt {words.split()[0]}"
                assert record["DOMAIN"] == domain.UUIDString()
                run(words)  # again
                assert not log.records()

    def test_what_others_wrote_stays(self, host: libvirt.virConnect) -> None:
        """Only the element of our namespace is ours."""
        other = "<other:x xmlns:other='urn:other'>text</other:x>"
        domain = host.defineXML(domains.defined("others", metadata=other))
        run("set others strategy=space")
        run("unset others")
        assert "<other:x" in domain.XMLDesc()

    @pytest.mark.parametrize(
        "spec",
        [
            "strategi=space",
            "strategy=fastt",
            "strategy.boot=space",
            "space.reserve=none",
            "strategy",
            "strategy=\x01",
        ],
    )
    def test_what_no_flavor_may_have_is_refused(
        self, host: libvirt.virConnect, spec: str
    ) -> None:
        """With one line, and nothing is written."""
        domain = host.defineXML(domains.defined("wrong"))
        done = run("set wrong", spec)
        assert (done.status, len(done.stderr.splitlines())) == (2, 1)
        assert own_metadata(domain, 0) is None
        twice = run("set wrong strategy=space allocpolicy:strategy=none")
        assert (twice.status, len(twice.stderr.splitlines())) == (2, 1)

    @pytest.mark.parametrize("specs", [{}, {"allocpolicy:strategy": "performance"}])
    def test_nova_has_the_say_in_its_domains_and_that_is_told(
        self, host: libvirt.virConnect, specs: dict[str, str]
    ) -> None:
        """Its flavor's specs win; without any, Nova drops ours sooner or later."""
        metadata = domains.nova(specs)
        host.defineXML(domains.defined("nova", metadata=metadata))
        done = run("set nova strategy=space")
        assert done.status == 0
        assert " libvirt set: warning: domain nova is Nova's: " in done.stderr
        found = shown("show", "nova")
        assert found["origin"] == ("nova" if specs else "metadata")
        assert found["flavor"] == "m1.fast"

    def test_the_operators_default_is_told(
        self, host: libvirt.virConnect, tmp_path: Path
    ) -> None:
        """It decides where nobody else does."""
        disk = domains.disk(tmp_path / "one")
        host.defineXML(domains.defined("default", disk))
        config = tmp_path / "allocpolicy.conf"
        config.write_text("[allocpolicy]\nlibvirt_default = space\n")
        found = shown("show", "default", "--config-file", config)
        assert found["origin"] == "libvirt_default"
        (one,) = found["disks"]
        assert one["strategy"] == "space"

    def test_what_is_not_there_is_refused(self, host: libvirt.virConnect) -> None:
        """A domain, and a spec of one."""
        host.defineXML(domains.defined("empty"))
        assert run("show none").status == 2
        assert run("unset empty strategy").status == 2
        assert run("unset empty").status == 0
        done = allocpolicy("libvirt", "show", "x", "--connect", "nonsense:///")
        assert (done.status, len(done.stderr.splitlines())) == (5, 1)

    def test_a_broken_element_can_be_taken_away(self, host: libvirt.virConnect) -> None:
        """It keeps the domain from being started."""
        broken = f"<a:policy xmlns:a='{NAMESPACE}'><a:other/></a:policy>"
        host.defineXML(domains.defined("broken", metadata=broken))
        assert run("show broken").status == 2
        assert run("unset broken").status == 0
        assert shown("show", "broken")["origin"] is None


@pytest.fixture
def define(host: libvirt.virConnect) -> Callable[..., libvirt.virDomain]:
    """Define a domain, or define it anew."""

    def defined(name: str, *disks: str, metadata: str = "") -> libvirt.virDomain:
        uuids = {one.name(): one.UUIDString() for one in host.listAllDomains()}
        return host.defineXML(
            domains.defined(name, *disks, metadata=metadata, uuid=uuids.get(name, ""))
        )

    return defined


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk whose storage is its own."""
    path = tmp_path / "disk"
    provision(path, "--size", "4M", "--strategy", "space")
    return path


def needed(disk: Path) -> dict[str, str]:
    """Return the words of libvirt with which a disk keeps its promise."""
    said = allocpolicy("inspect", disk, "--libvirt-xml").stdout
    words = dict(ElementTree.fromstring(said).attrib)
    return {name: words[name] for name in words if name not in ("name", "type")}


def changed(path: Path) -> tuple[int, int]:
    """Return which file it is, and when anything of it was changed."""
    status = path.stat()
    return status.st_ino, status.st_ctime_ns


def attributes(words: Mapping[str, str]) -> str:
    return " ".join(f"{name}='{word}'" for name, word in words.items())


def driver(domain: libvirt.virDomain) -> dict[str, str]:
    """Return the attributes of the first disk's driver at the next start."""
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    element = ElementTree.fromstring(text).find("devices/disk/driver")
    assert element is not None
    return dict(element.attrib)


def differing(done: Finished) -> set[tuple[str, ...]]:
    """Return the settings of the rows of a check: which definition, disk and words."""
    names = ("definition", "target", "setting", "found", "needed")
    return {tuple(row[name] for name in names) for row in done.document}


class TestCheck:
    """How domains attach their disks."""

    def test_each_definition_is_compared_word_by_word(
        self, define: Callable[..., libvirt.virDomain], disk: Path
    ) -> None:
        """A word that is missing is what QEMU has for it."""
        words = needed(disk)
        define("web", domains.disk(disk, driver=attributes(words))).create()
        content = run("check web")
        assert (content.status, content.stdout) == (0, "")
        assert content.stderr == "nothing differs\n"
        wrong = attributes(words | {"discard": "unmap"})
        define("web", domains.disk(disk, driver=wrong))
        done = run("check web -f json")
        assert done.status == 1
        assert differing(done) == {
            ("persistent", "vda", "discard", "unmap", words["discard"])
        }
        define("web", domains.disk(disk))
        defaults = {"cache": "writeback", "io": "threads"}
        assert differing(run("check -f json")) == {
            ("persistent", "vda", name, word, words[name])
            for name, word in defaults.items()
            if words[name] != word
        }

    def test_the_definition_of_the_next_start_is_fixed_and_nothing_else(
        self, define: Callable[..., libvirt.virDomain], disk: Path
    ) -> None:
        """The running VM keeps its own until it is shut down."""
        metadata = domains.nova({})
        attached = domains.disk(
            disk, driver="discard='unmap'", inside="<serial>&lt;x&gt;</serial>"
        )
        domain = define("web", attached, metadata=metadata)
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        before = domain.XMLDesc(flags)
        domain.create()
        with logs.listening() as log:
            done = run("check web --fix -f json")
            (record,) = log.records()
        assert (record["DISK"], record["DOMAIN"]) == (str(disk), domain.UUIDString())
        assert done.status == 1
        reasons = {row["definition"]: row["reason"] for row in done.document}
        assert reasons["persistent"].startswith("fixed; but Nova ")
        assert "shut down" in reasons["live"]
        words = needed(disk)
        after = domain.XMLDesc(flags)
        words.pop("detect_zeroes")  # what is missing is that already
        assert driver(domain) == {"name": "qemu", "type": "qcow2"} | words
        assert "passwd='secret'" in after
        own = "<driver name='qemu' type='qcow2'"
        (old,), (new,) = (
            [one for one in text.splitlines() if own in one] for text in (before, after)
        )
        assert before.replace(old, new) == after
        domain.destroy()
        assert run("check web").status == 0

    def test_the_caches_of_a_large_disk_are_compared_as_sizes(
        self, define: Callable[..., libvirt.virDomain], tmp_path: Path
    ) -> None:
        """In any unit; a larger one will do."""
        path = tmp_path / "large"
        options = ("--extra-spec", "allocpolicy:performance.cluster_size=64K")
        provision(path, "--size", "512G", "--strategy", "performance", *options)
        domain = define("large", domains.disk(path))
        (size,) = (
            int(row["needed"])
            for row in run("check large -f json").document
            if row["setting"] == "metadata_cache/max_size"
        )
        assert run("check large --fix").status == 0
        assert run("check large").status == 0
        kib = f"<max_size unit='KiB'>{size // 1024}</max_size>"
        text = domain.XMLDesc()
        exact = f"<max_size unit='bytes'>{size}</max_size>"
        assert exact in text
        smaller, larger = (kib.replace(">6", sign) for sign in (">1", ">9"))
        for other, status in ((kib, 0), (smaller, 1), (larger, 0)):
            domain.connect().defineXML(text.replace(exact, other))
            assert run("check large").status == status

    def test_the_domains_policy_goes_before_an_older_stamp(
        self, define: Callable[..., libvirt.virDomain], disk: Path
    ) -> None:
        """At the next start the disk is brought to it."""
        define("web", domains.disk(disk, driver="discard='ignore'"))
        run("set web strategy=none")
        found = differing(run("check web -f json"))
        assert ("persistent", "vda", "discard", "ignore", "unmap") in found
        run("set web strategy=space")
        found = differing(run("check web -f json"))
        assert not [one for one in found if one[2] == "discard"]

    def test_disks_without_policy_have_no_row_and_broken_ones_are_told(
        self, define: Callable[..., libvirt.virDomain], disk: Path, tmp_path: Path
    ) -> None:
        """The others are checked all the same."""
        bare, broken = tmp_path / "bare", tmp_path / "broken"
        images.qemu_img("create", "-f", "qcow2", bare, "4M")
        broken.write_bytes(b"no qcow2")
        define("bare", domains.disk(bare))
        define("broken", domains.disk(broken))
        define("gone", domains.disk(tmp_path / "gone")).create()
        define("web", domains.disk(disk, driver="discard='unmap'"))
        done = run("check -f json")
        assert done.status == 2
        assert [row["domain"] for row in done.document if row["setting"] == "discard"]
        assert {row["domain"] for row in done.document} == {"web"}
        assert len(done.stderr.splitlines()) == 2
        assert "domain broken" in done.stderr
        assert "domain gone" in done.stderr
        uuid = define("web2", domains.disk(bare)).UUIDString()
        assert run("check web web -f json").document == done.document
        assert run("check web2", uuid).status == 0


class TestApply:
    """Bringing the disks of a domain to its policy."""

    def test_all_disks_get_it(
        self, define: Callable[..., libvirt.virDomain], tmp_path: Path
    ) -> None:
        """By the domain's specs, each in its role, whatever its stamp says."""
        paths = [tmp_path / name for name in ("one", "two")]
        images.qemu_img("create", "-f", "qcow2", paths[0], "4M")
        provision(paths[1], "--size", "4M", "--strategy", "none", "--format", "raw")
        disks = [
            domains.disk(paths[0]),
            domains.disk(paths[1], target="vdb", format="raw"),
        ]
        define("web", *disks)
        assert run("apply web").status == 2
        run("set web strategy=performance strategy.ephemeral=space")
        planned = run("apply web --dry-run -f json")
        assert [row["outcome"] for row in planned.document] == ["planned", "planned"]
        done = run("apply web -f json")
        assert (done.status, done.stderr) == (0, "")
        rows = [(row["disk"], row["strategy"]) for row in done.document]
        assert rows == [(str(paths[0]), "performance"), (str(paths[1]), "space")]
        audited = allocpolicy("audit", tmp_path, "-f", "json")
        assert {row["verdict"] for row in audited.document} == {"meets"}

    @pytest.mark.parametrize("more", [(), ("--dry-run",)])
    def test_the_disks_of_a_domain_that_fails_have_rows_beside_the_others(
        self,
        define: Callable[..., libvirt.virDomain],
        tmp_path: Path,
        more: tuple[str, ...],
    ) -> None:
        """One that can't be changed, beside its domain's other, and a wrong spec."""
        good, bad, other, wrong = (tmp_path / one for one in ("a", "b", "c", "d"))
        for path in (good, other, wrong):
            images.qemu_img("create", "-q", "-f", "qcow2", path, "4M")
        bad.write_bytes(bytes(MIB))
        define("first", domains.disk(good), domains.disk(bad, target="vdb"))
        define("second", domains.disk(other))
        define("third", domains.disk(wrong)).setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            "<policy><spec name='strategy'>spaec</spec></policy>",
            "allocpolicy",
            NAMESPACE,
            libvirt.VIR_DOMAIN_AFFECT_CONFIG,
        )
        for name in ("first", "second"):
            run("set", name, "strategy=space")
        done = run("apply --all -f json", *more)
        assert done.status == 2
        assert done.stderr.count("\n") == 2
        assert {row["disk"]: row["outcome"] for row in done.document} == {
            str(good): "failed",
            str(bad): "failed",
            str(other): "planned" if more else "changed",
            str(wrong): "failed",
        }
        reasons = {row["disk"]: row["reason"] for row in done.document}
        assert str(bad) in reasons[str(good)] == reasons[str(bad)]
        assert "spaec" in reasons[str(wrong)]

    @pytest.mark.filesystems("ext4")
    def test_a_dry_run_of_several_domains_adds_up(
        self, define: Callable[..., libvirt.virDomain], directory: Path
    ) -> None:
        """Each finds the room that those before it leave."""
        for name in ("one", "two"):
            images.qemu_img("create", "-f", "qcow2", directory / name, "4M")
            define(name, domains.disk(directory / name))
            run("set", name, "strategy=space")
        first, second = run("apply one two --dry-run -f json").document
        assert abs(second["free_bytes"] - first["free_after_bytes"]) < MIB
        assert first["free_after_bytes"] < first["free_bytes"] - 3 * MIB

    def test_a_disk_that_libvirt_may_leave_out_may_be_missing(
        self, define: Callable[..., libvirt.virDomain], tmp_path: Path
    ) -> None:
        """As an optional one; a domain without disks has nothing to be done."""
        optional = domains.disk(tmp_path / "none")
        optional = optional.replace("<source", "<source startupPolicy='optional'")
        for name, disks in (("optional", [optional]), ("empty", [])):
            define(name, *disks)
            run("set", name, "strategy=space")
            done = run("apply -f json", name)
            assert (done.status, done.document) == (0, [])
            assert run("check", name).status == 0
        assert TestAudit().audited() == (0, {})

    def test_a_vm_that_has_the_disks_keeps_them(
        self, define: Callable[..., libvirt.virDomain], disk: Path
    ) -> None:
        """One that runs, and one whose guest is in a managed save image."""
        domain = define("web", domains.disk(disk))
        run("set web strategy=performance")
        before = changed(disk)
        domain.create()
        assert run("apply web").status == 2
        domain.managedSave()
        done = run("apply web")
        assert (done.status, "managedsave-remove" in done.stderr) == (2, True)
        assert changed(disk) == before
        domain.managedSaveRemove()
        assert run("apply web").status == 0

    @pytest.mark.parametrize(
        "below",
        [
            """<backingStore type='file'><format type='raw'/><source file='{base}'/>
            <backingStore/></backingStore>""",
            "<backingStore/>",
        ],
    )
    def test_a_disk_whose_chain_the_definition_names_is_not_rewritten(
        self, define: Callable[..., libvirt.virDomain], tmp_path: Path, below: str
    ) -> None:
        """QEMU would open the image all the same, or the guest read what it doesn't."""
        base, top = tmp_path / "base", tmp_path / "top"
        images.make_whole(base, size=4 << 20)
        images.qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", base, top)
        define("web", domains.disk(top, inside=below.format(base=base)))
        run("set web strategy=performance")
        before = top.read_bytes()
        done = run("apply web")
        assert (done.status, "virsh edit" in done.stderr) == (2, True)
        assert top.read_bytes() == before


class TestAudit:
    """Every disk of every domain, by the policy of its definition."""

    def audited(self, *arguments: object) -> tuple[int, dict[str, tuple[str, str]]]:
        """Return the exit status, and each disk's word and reason by its name."""
        uri = domains.TEST_DRIVER
        done = allocpolicy("audit", "--libvirt", uri, *arguments, "-f", "json")
        rows = {
            Path(row["disk"]).name: (row["verdict"], row["reason"])
            for row in done.document
        }
        return done.status, rows

    def test_the_definition_goes_before_the_stamp(
        self, define: Callable[..., libvirt.virDomain], disk: Path, tmp_path: Path
    ) -> None:
        """Without a policy in it the stamp decides; without a stamp nothing does."""
        bare = tmp_path / "bare"
        images.qemu_img("create", "-f", "qcow2", bare, "4M")
        define("web", domains.disk(disk))
        define("bare", domains.disk(bare))
        status, rows = self.audited()
        assert status == 0
        assert rows["disk"][0] == "meets"
        assert "domain web, vda" in rows["disk"][1]
        assert rows["bare"][0] == "no policy"
        run("set web strategy=performance")
        run("set bare strategy=none")
        status, rows = self.audited()
        assert status == 1
        assert (rows["disk"][0], rows["bare"][0]) == ("drifted", "meets")
        run("set web strategy=none")
        assert self.audited()[0] == 0

    def test_of_two_domains_with_a_disk_one_that_has_a_policy_decides(
        self, define: Callable[..., libvirt.virDomain], disk: Path
    ) -> None:
        """And before all one that runs."""
        define("a", domains.disk(disk))
        define("b", domains.disk(disk))
        define("c", domains.disk(disk)).create()
        for name, strategy in (("b", "none"), ("c", "performance")):
            run("set", name, f"strategy={strategy}")
            assert f"domain {name}, vda" in self.audited()[1]["disk"][1]

    def test_a_disk_that_is_not_there_is_missing(
        self, define: Callable[..., libvirt.virDomain], tmp_path: Path
    ) -> None:
        """With or without a policy."""
        define("web", domains.disk(tmp_path / "gone"))
        status, rows = self.audited()
        assert (status, rows["gone"][0]) == (1, "missing")
        assert "domain web, vda" in rows["gone"][1]

    @pytest.mark.parametrize("specs", ["", "strategy=space"])
    def test_the_thin_top_of_an_external_snapshot_is_named(
        self, define: Callable[..., libvirt.virDomain], disk: Path, specs: str
    ) -> None:
        """It is what the guest writes to; its policy may be that of the disk below."""
        top = disk.with_name("top")
        images.qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", disk, top)
        define("web", domains.disk(top))
        if specs:
            run("set web", specs)
        status, rows = self.audited()
        word, reason = rows["top"]
        assert (status, word) == (1, "drifted")
        assert f"it is an external snapshot of {disk}" in reason

    def test_nothing_is_written_and_a_directory_may_be_named_as_well(
        self, define: Callable[..., libvirt.virDomain], disk: Path
    ) -> None:
        """The files are what they were; those of no domain go by their stamps."""
        other = disk.with_name("other")
        provision(other, "--size", "4M", "--strategy", "none")
        define("web", domains.disk(disk))
        before = [(changed(one), one.read_bytes()) for one in (disk, other)]
        status, rows = self.audited(disk.parent)
        assert (status, set(rows)) == (0, {"disk", "other"})
        assert [(changed(one), one.read_bytes()) for one in (disk, other)] == before

    def test_a_domain_whose_specs_are_wrong_is_told_and_others_are_judged(
        self, define: Callable[..., libvirt.virDomain], disk: Path
    ) -> None:
        """As one of Nova's, whose flavor nobody checked."""
        define("web", domains.disk(disk))
        metadata = domains.nova({"allocpolicy:strategy": "fastt"})
        define("wrong", domains.disk(disk), metadata=metadata)
        done = allocpolicy("audit", "--libvirt", domains.TEST_DRIVER, "-f", "json")
        assert done.status == 2
        assert "domain wrong" in done.stderr
        assert [row["verdict"] for row in done.document] == ["meets"]


class TestHost:
    """All disks of an existing host, without a loop by hand."""

    def test_the_definitions_say_each_disks_format_and_policy(
        self, host: libvirt.virConnect, tmp_path: Path
    ) -> None:
        """A raw disk stays one, also where its guest wrote another header."""
        one, two, three = (tmp_path / name for name in ("one", "two", "three"))
        for path in (one, three):
            images.qemu_img("create", "-q", "-f", "qcow2", path, "8M")
        two.write_bytes(one.read_bytes()[:4096] + bytes((1 << 20) - 4096))
        host.defineXML(
            domains.defined(
                "web", domains.disk(one), domains.disk(two, target="vdb", format="raw")
            )
        )
        host.defineXML(domains.defined("none", domains.disk(three)))
        assert run("set web strategy=space").status == 0
        given = ("stamp", "all", "--libvirt", domains.TEST_DRIVER, "-f", "json")
        done = allocpolicy(*given)
        found = {row["disk"]: row for row in validated(done, command="stamp all")}
        assert {path: row["outcome"] for path, row in found.items()} == {
            str(one): "stamped",
            str(two): "stamped",
        }
        assert found[str(two)]["format"] == "raw"
        assert {row["strategy"] for row in found.values()} == {"space"}
        planned = run("apply --all --dry-run -f json")
        assert planned.status == 0
        assert {row["disk"]: row["outcome"] for row in planned.document} == {
            str(one): "planned",
            str(two): "unchanged",
            str(three): "skipped",
        }
        assert run("apply web none").status == 2
        (skipped,) = (row for row in planned.document if row["outcome"] == "skipped")
        assert "domain none has no policy" in skipped["reason"]

    def test_nothing_is_meant_where_nothing_is_named(
        self, host: libvirt.virConnect
    ) -> None:
        for words in ("apply", "apply web --all"):
            done = run(words)
            assert done.status == 2
            assert "name domains, or all of them by --all" in done.stderr
        done = allocpolicy("stamp", "all", "disk")
        assert (done.status, "by --map FILE, or by" in done.stderr) == (2, True)
