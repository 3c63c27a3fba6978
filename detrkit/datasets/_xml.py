"""Reading of small XML files from anywhere: no document type, no entities, bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from detrkit.datasets._reading import finite
from detrkit.datasets._report import Fault

MAX_BYTES = 4 * 2**20  # some 13,000 objects of Pascal VOC
MAX_DEPTH = 32
_BLANK = b" \t\r\n\0"


def read_xml(path: Path) -> Element:
    """The root element of an XML file.

    Raises:
        Fault: it cannot be read, is empty, too large, too deep or not well formed, or declares a document type, by
            which entities that grow without bound ("billion laughs") and outside files come in.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise Fault("file cannot be read", value=f"({error.strerror})") from None
    if size > MAX_BYTES:
        raise Fault("file is too large", value=f"({size} bytes)", expected=f"at most {MAX_BYTES} bytes")
    if not data.strip(_BLANK):
        raise Fault("file is empty")
    return _parse(data)


def _parse(data: bytes) -> Element:
    tree, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise Fault("XML is nested too deep", expected=f"at most {MAX_DEPTH} levels")
        tree.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        tree.end(tag)

    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, tree.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = f"({expat.ErrorString(error.code)} at byte {parser.ErrorByteIndex})"
        raise Fault("not well-formed XML", value=reason, expected="a whole XML file") from None
    except (LookupError, ValueError) as error:
        raise Fault("XML in an unknown encoding", value=f"({error})", expected="UTF-8 or UTF-16") from None
    return tree.close()


def _refuse_document_type(name: str, *_: object) -> NoReturn:
    raise Fault("XML declares a document type; refused", value=f"<!DOCTYPE {name}>", expected="plain XML")


def child(node: Element, name: str) -> Element:
    """The one child of that name.

    Raises:
        Fault: there is none, or more than one.
    """
    found = node.findall(name)
    if len(found) != 1:
        raise Fault(f"field is given {len(found)} times" if found else "field is missing", field=name, expected="once")
    return found[0]


def text(node: Element, name: str) -> str:
    """Text of the one child of that name, with single blanks.

    Raises:
        Fault: there is no such child, more than one, or it is empty.
    """
    words = " ".join((child(node, name).text or "").split())
    if not words:
        raise Fault("field is empty", field=name)
    return words


def number(node: Element, name: str) -> float:
    """Finite number in the one child of that name.

    Raises:
        Fault: there is no such child, more than one, or it holds no finite number.
    """
    try:
        return finite(text(node, name))
    except Fault as fault:
        fault.field = fault.field or name
        raise
