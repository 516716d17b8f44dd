# SPDX-License-Identifier: Apache-2.0
"""What every request must be before a servicer sees it.

Owns: two checks. A request whose bytes are no message of its type is refused as any bad argument is: grpc's own answer
is UNKNOWN without a detail, and leaves no line in the log. And no text has a null byte: below the core, libvirt, the
engine and the kernel would read another, shorter text than the one that was checked and recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message

from virtblock.server.core.errors import ErrorDomain, ErrorNumber, report

Deserializer = Callable[[bytes], Any]


class Undecodable:
    """What stands for a request that cannot be decoded until `check_request` refuses it."""


def decoding(deserializer: Deserializer | None) -> Deserializer | None:
    """The deserializer, with an `Undecodable` where it fails; None, which takes bytes as they are, stays None."""
    if deserializer is None:
        return None

    def decode(data: bytes) -> Any:
        try:
            return deserializer(data)
        except (DecodeError, UnicodeDecodeError):
            return Undecodable()

    return decode


def check_request(request: Any) -> None:
    """Raises VirError INVALID_ARG for a request that no servicer is to see."""
    if isinstance(request, Undecodable):
        detail = "the request cannot be decoded as a message of its type"
        raise report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.RPC)
    if isinstance(request, Message):
        _check_texts(request)


def _check_texts(message: Message) -> None:
    for field, value in message.ListFields():
        # A repeated field is a sequence of its own type, which is neither a list nor a tuple.
        is_repeated = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        for item in value if is_repeated else (value,):
            if isinstance(item, Message):
                _check_texts(item)
            elif isinstance(item, str) and "\0" in item:
                detail = f"the text in '{field.name}' has a null byte"
                raise report(ErrorNumber.INVALID_ARG, detail, domain=ErrorDomain.RPC)
