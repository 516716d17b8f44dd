# SPDX-License-Identifier: Apache-2.0
"""Binary units: their values, and how a person reads and writes them."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB
PIB = 1024 * TIB
EIB = 1024 * PIB

_NAMES = ((EIB, "EiB"), (PIB, "PiB"), (TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_FACTORS = {"K": KIB, "M": MIB, "G": GIB, "T": TIB}
_RATE = r"(?P<number>[0-9]+(\.[0-9]+)?) ?((?P<unit>[KMGT])(iB)?)?(/s)?"
_SIZE = r"(?P<number>[0-9]{1,18}) ?((?P<unit>[KMGT])(iB)?)?"
_RATE_MAX = 2**63 - 1


def bytes_text(count_bytes: float) -> str:
    """A size for reading: `1.50 GiB`, `64 KiB`, `17 bytes`; three digits, because more only flicker."""
    for unit, name in _NAMES:
        if count_bytes >= unit:
            value = count_bytes / unit
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {name}"
    text = f"{count_bytes:.0f}"
    return "1 byte" if text == "1" else f"{text} bytes"


def duration_text(seconds: float) -> str:
    """`0:07`, `12:34` or `3:01:09`."""
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def parse_size(text: str) -> int:
    """Bytes from `65536`, `64K`, `64KiB` or `2M`. ValueError for all else."""
    match = re.fullmatch(_SIZE, text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r}")
    return int(match["number"]) * _FACTORS.get(match["unit"], 1)


def parse_rate(text: str) -> int:
    """Bytes per second from `100` (MiB/s), `1.5G`, `500KiB` or `20MiB/s`; 0 is no limit. ValueError for all else."""
    match = re.fullmatch(_RATE, text.strip())
    if match is None:
        raise ValueError(f"not a rate: {text!r}")
    rate = int(float(match["number"]) * _FACTORS[match["unit"] or "M"])
    if rate > _RATE_MAX or (rate == 0 and float(match["number"]) > 0):
        raise ValueError(f"rate out of range: {text!r}")
    return rate
