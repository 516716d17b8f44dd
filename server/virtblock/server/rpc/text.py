# SPDX-License-Identifier: Apache-2.0
"""Text as the wire takes it.

Owns: two rules. Protobuf strings are UTF-8, while a path is bytes: what is not UTF-8 is shown escaped rather than
refused. And a text that must be short loses its middle: the beginning says what failed, the end is the file's name.
"""

from __future__ import annotations

_CUT = "…"


def wire_text(text: str) -> str:
    """The text with lone surrogates (bytes of a path that are not UTF-8) as backslash escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def cut_to(text: str, bytes_max: int) -> str:
    """The text if its UTF-8 form fits `bytes_max`, else its beginning and its end around an ellipsis."""
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text
    kept_bytes = bytes_max - len(_CUT.encode())
    if kept_bytes <= 0:
        return ""
    tail_bytes = kept_bytes // 2
    head = encoded[: kept_bytes - tail_bytes].decode("utf-8", "ignore")
    tail = encoded[len(encoded) - tail_bytes :].decode("utf-8", "ignore")
    return head + _CUT + tail


def cut_to_encoded(text: str, bytes_max: int) -> str:
    """As `cut_to`, where the size counts as in an HTTP/2 header: three bytes for what must be percent-encoded."""
    fitting = text
    limit = bytes_max
    while _percent_encoded_bytes(fitting) > bytes_max:
        fitting = cut_to(text, limit)
        limit = limit * 3 // 4
    return fitting


def _percent_encoded_bytes(text: str) -> int:
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())
