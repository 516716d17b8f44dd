# SPDX-License-Identifier: Apache-2.0
"""Sizes and rates as virsh reads and shows them."""

from __future__ import annotations

import re

from virtblock.cli.failures import CommandError
from virtblock.cli.grammar import UINT64_MAX, Invocation

KIB = 1024
MIB = 1024 * KIB
_LETTERS = "KMGTPE"
_SCALED = re.compile(r"\s*\+?([0-9]+)(.*)", re.DOTALL)


class ScaleError(ValueError):
    """A text that is no scaled integer; `detail` is libvirt's text on it, empty where it has none."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


def scale_factor(suffix: str, default: int) -> int:
    """What a suffix multiplies by (virScaleInteger): `K`, `KiB` 1024, `KB` 1000 and so on to E, `b` 1; in any case."""
    name = suffix.lower()
    if not name:
        return default
    if name in ("b", "byte", "bytes"):
        return 1
    power = _LETTERS.find(name[0].upper()) + 1
    if power == 0 or name[1:] not in ("", "b", "ib"):
        raise ScaleError(f"invalid argument: unknown suffix '{suffix}'")
    return int((1000 if name[1:] == "b" else 1024) ** power)


def parse_scaled(text: str, default_factor: int, maximum: int) -> int:
    """A whole number with an optional suffix. ScaleError says why it is none, or is above `maximum`."""
    match = _SCALED.fullmatch(text)
    if match is None or int(match[1]) > UINT64_MAX:
        raise ScaleError
    value = int(match[1]) * scale_factor(match[2], default_factor)
    if value > maximum:
        raise ScaleError(f"numerical overflow: value too large: {text}")
    return value


def scaled_option(
    invocation: Invocation, name: str, default_factor: int, maximum: int = UINT64_MAX, *, shown_name: str = ""
) -> int:
    """The value of a required, scaled option. CommandError has virsh's text."""
    text = invocation.texts[name]
    try:
        return parse_scaled(text, default_factor, maximum)
    except ScaleError as error:
        problem = f"Scaled numeric value '{text}' for <{shown_name or name}> option is malformed or out of range"
        raise CommandError(problem, *filter(None, [error.detail])) from None


def bandwidth_option(invocation: Invocation, *, in_bytes: bool) -> int:
    """The option `bandwidth` in MiB/s, or in bytes/s with `in_bytes`; 0 when it was not given.

    A plain number is taken as it is, a negative one modulo 2**64, for libvirt to judge. A scaled one (`10M`) is a
    rate in bytes, rounded down to MiB where that is the unit.
    """
    text = invocation.texts.get("bandwidth")
    if text is None:
        return 0
    if re.fullmatch(r"\s*[+-]?[0-9]+", text) and abs(int(text)) <= UINT64_MAX:
        return int(text) % (UINT64_MAX + 1)
    value = scaled_option(invocation, "bandwidth", 1 if in_bytes else MIB, shown_name="--bandwidth")
    return value if in_bytes else value // MIB


def size_text(count_bytes: int) -> str:
    """A size for reading, as virsh's `--human`: `300.000 MiB`, `17.000 B`."""
    value, unit = pretty_capacity(count_bytes)
    return f"{value:.3f} {unit}"


def pretty_capacity(count_bytes: int) -> tuple[float, str]:
    """The number in the largest binary unit that it reaches, and the unit."""
    value, unit = float(count_bytes), "B"
    for letter in _LETTERS:
        if value < KIB:
            break
        value, unit = value / KIB, f"{letter}iB"
    return value, unit
