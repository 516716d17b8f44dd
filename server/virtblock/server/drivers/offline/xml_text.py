# SPDX-License-Identifier: Apache-2.0
"""XML as text: reading what callers send, and writing it the way libvirt writes it.

Owns: the parser's limits and libvirt's parse errors. Invariants: no entity is expanded, nothing is fetched, a
document type declaration is refused, and a document has at most 4 MiB (libvirt's own limit for a string on the wire).
"""

from __future__ import annotations

import re

from lxml import etree

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, VirError, report

DOCUMENT_MAX_BYTES = 4 * 1024 * 1024
CONTEXT_MAX_CHARS = 80

# Only white space, comments and processing instructions may stand before a document type declaration. The groups are
# atomic: a hostile prolog costs one pass.
_DOCTYPE = re.compile(rb"(?>(?>\xef\xbb\xbf|\s+|<\?.*?\?>|<!--.*?-->)*)<!DOCTYPE", re.DOTALL)
_MARKUP = re.compile(r"<!\[CDATA\[.*?\]\]>|<!--.*?-->|<\?.*?\?>|<[^>]*>", re.DOTALL)
_QUOTED = re.compile(r'="([^"]*)"')


def parse(text: str, document: str, root_tag: str, *, domain: int = ErrorDomain.DOMAIN) -> etree._Element:
    """The root element of `text`, which must be a `root_tag`; else as `parse_any`, and 27 for another root element."""
    root = parse_any(text, document, domain=domain)
    if root.tag != root_tag:
        detail = f"expecting root element of '{root_tag}', not '{etree.QName(root).localname}'"
        raise report(ErrorNumber.XML_ERROR, detail, domain=ErrorDomain.XML)
    return root


def parse_any(text: str, document: str, *, domain: int = ErrorDomain.DOMAIN) -> etree._Element:
    """The root element of `text`. `document` names it in errors as libvirt does, e.g. "(domain_definition)".

    VirError 35 for what is not well formed, 27 for what is too long or has a document type declaration.
    """
    data = text.encode("utf-8", errors="surrogatepass")
    if len(data) > DOCUMENT_MAX_BYTES:
        detail = f"{document}: the document has {len(data)} bytes, more than the limit of {DOCUMENT_MAX_BYTES}"
        raise report(ErrorNumber.XML_ERROR, detail, domain=domain)
    if _DOCTYPE.match(data):
        raise report(ErrorNumber.XML_ERROR, f"{document}: document type declarations are not accepted", domain=domain)
    return _parse_bytes(data, text, document, domain)


def serialize(root: etree._Element) -> str:
    """The document as libvirt prints one: attributes in single quotes, no declaration, a line break at the end."""
    printed = etree.tostring(root, encoding="unicode", with_tail=False)
    return _MARKUP.sub(_single_quoted, printed).rstrip("\n") + "\n"


def insert_indented(parent: etree._Element, position: int, child: etree._Element) -> None:
    """Puts `child` into `parent` and lines it up with its neighbours, where those are on lines of their own."""
    margin = parent.text if parent.text and not parent.text.strip() and "\n" in parent.text else None
    parent.insert(position, child)
    if margin is None:
        return
    depth = (len(margin) - margin.rindex("\n") - 1) // 2
    etree.indent(child, space="  ", level=depth)
    if position + 1 < len(parent):
        child.tail = margin
        return
    before = parent[position - 1] if position else None
    child.tail = before.tail if before is not None else margin[:-2]
    if before is not None:
        before.tail = margin


def remove_indented(element: etree._Element) -> None:
    """Takes `element` out of its parent, with its line."""
    parent = element.getparent()
    assert parent is not None  # callers pass children only
    before = element.getprevious()
    if element.getnext() is None and before is not None:
        before.tail = element.tail
    parent.remove(element)


def _single_quoted(markup: re.Match[str]) -> str:
    tag = markup.group()
    if tag.startswith(("<!", "<?")):
        return tag
    return _QUOTED.sub(lambda value: "='" + value.group(1).replace("'", "&apos;") + "'", tag)


def _parse_bytes(data: bytes, text: str, document: str, domain: int) -> etree._Element:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, strip_cdata=False
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise _not_well_formed(error, parser, text, document, domain) from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise report(ErrorNumber.XML_ERROR, f"{document}: document type declarations are not accepted", domain=domain)
    return root


def _not_well_formed(
    error: etree.XMLSyntaxError, parser: etree.XMLParser, text: str, document: str, domain: int
) -> VirError:
    """libvirt's form: place, reason, the line, and a pointer under the column."""
    first = parser.error_log[0] if len(parser.error_log) else None
    line_number = (first.line if first else error.lineno) or 1
    column = (first.column if first else error.offset) or 1
    reason = (first.message if first else str(error)).rstrip("\n")
    lines = text.splitlines()
    if not lines:
        return report(ErrorNumber.XML_DETAIL, f"{document}:1: Document is empty\n(null)\n^", domain=domain)
    line = lines[min(line_number, len(lines)) - 1]
    start = max(0, column - CONTEXT_MAX_CHARS)
    pointer = "-" * (column - 1 - start) + "^"
    shown = line[start : start + CONTEXT_MAX_CHARS]
    return report(ErrorNumber.XML_DETAIL, f"{document}:{line_number}: {reason}\n{shown}\n{pointer}", domain=domain)
