"""Reading a domain's XML, which is input from somebody else: whole, plain and bounded.

Nothing outside is read: a document type, and so every entity of its own, is refused.
Only what is here runs for a domain without a policy, so this imports next to nothing.
"""

from __future__ import annotations

from xml.parsers import expat

MOST_BYTES = 1024 * 1024  #: of a document
_MOST_ELEMENTS = 50_000
_MOST_ATTRIBUTES = 256  # of one element
_DEEPEST = 256  # elements within each other; a backing chain nests
#: those that expat reads by itself; libvirt writes UTF-8
_ENCODINGS = ("utf-8", "utf-16", "iso-8859-1", "us-ascii")


class Malformed(Exception):
    """The document can't be read, or says what can't be: ``(reason)``."""


class Element:
    """An element: its name, as ``NAMESPACE NAME`` if it is in one, and what it has."""

    __slots__ = ("attributes", "children", "name", "pieces")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Element] = []
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        """Return the text of the element itself, without its children's."""
        return "".join(self.pieces)

    def all(self, name: str) -> list[Element]:
        """Return the children with a name, in the document's order."""
        return [child for child in self.children if child.name == name]

    def one(self, name: str) -> Element | None:
        """Return the child with a name; None if there is none.

        :raises Malformed: when there are several.
        """
        found = self.all(name)
        if len(found) > 1:
            raise Malformed(f"<{self.name}> has {len(found)} elements <{name}>")
        return found[0] if found else None


def read(xml: bytes) -> Element:
    """Return the document's outermost element.

    :raises Malformed: when it is too large, not well-formed, or has a document type.
    """
    if len(xml) > MOST_BYTES:
        raise Malformed(f"it has more than {MOST_BYTES} bytes")
    reader = _Reader()
    try:
        reader.parser.Parse(xml, True)  # noqa: FBT003  (its second is the end)
    except expat.ExpatError as error:
        raise Malformed(f"it is not well-formed: {error}") from error
    return reader.document.children[0]


def uuid(domain: Element) -> str:
    """Return a domain's UUID, in libvirt's spelling: lower case, with hyphens.

    :raises Malformed: when it is no domain, or has no UUID, or another spelling.
    """
    if domain.name != "domain":
        raise Malformed(f"it describes <{domain.name}>, not a <domain>")
    found = domain.one("uuid")
    text = found.text.strip() if found else ""
    if [len(part) for part in text.split("-")] != [8, 4, 4, 4, 12] or not (
        set(text) <= set("0123456789abcdef-")
    ):
        raise Malformed(f"its uuid is {text!r}, not one that libvirt writes")
    return text


class _Reader:
    """Building the elements, and stopping at what isn't allowed."""

    def __init__(self) -> None:
        self.parser = parser = expat.ParserCreate(namespace_separator=" ")
        self.document = Element("", {})
        self._open = [self.document]
        self._count = 0
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declared
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text

    def _declared(self, _version: str, encoding: str | None, _alone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise Malformed(f"its encoding is {encoding!r}, not {_ENCODINGS[0]!r}")

    def _doctype(self, *_: object) -> None:
        raise Malformed("it has a document type (DOCTYPE), which may name entities")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > _MOST_ELEMENTS:
            raise Malformed(f"it has more than {_MOST_ELEMENTS} elements")
        if len(self._open) > _DEEPEST:
            raise Malformed(f"its elements are more than {_DEEPEST} deep")
        if len(attributes) > _MOST_ATTRIBUTES:
            raise Malformed(f"an element has more than {_MOST_ATTRIBUTES} attributes")
        element = Element(name, attributes)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, _name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        self._open[-1].pieces.append(text)
