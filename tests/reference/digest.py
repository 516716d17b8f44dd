# SPDX-License-Identifier: Apache-2.0
"""The digest of a disk's content in plain Python, as docs/digest.md defines it: slow and obvious.

Owns nothing of the product; tests hold the C core against it. XXH3 is written out for the two lengths that the digest
needs, so that the check rests on no library that the core uses as well.
"""

from __future__ import annotations

import struct

BLOCK_BYTES = 4096

_MASK = 2**64 - 1
_PRIME32_1, _PRIME32_2, _PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_PRIME64_1, _PRIME64_2, _PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_PRIME64_4, _PRIME64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_STRIPE_BYTES = 64
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def _words(data: bytes, offset: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f"<{count}Q", data, offset)


def _fold(left: int, right: int) -> int:
    product = left * right
    return (product & _MASK) ^ (product >> 64)


def _avalanche(value: int) -> int:
    value ^= value >> 37
    value = value * 0x165667919E3779F9 & _MASK
    return value ^ value >> 32


def _seeded_secret(seed: int) -> bytes:
    words = _words(_SECRET, 0, len(_SECRET) // 8)
    return struct.pack(
        f"<{len(words)}Q", *((word - seed if i % 2 else word + seed) & _MASK for i, word in enumerate(words))
    )


def _accumulate(sums: list[int], stripe: tuple[int, ...], key: tuple[int, ...]) -> None:
    for i in range(8):
        keyed = stripe[i] ^ key[i]
        sums[i ^ 1] = (sums[i ^ 1] + stripe[i]) & _MASK
        sums[i] = (sums[i] + (keyed & 0xFFFFFFFF) * (keyed >> 32)) & _MASK


def _merge(sums: list[int], key: tuple[int, ...], start: int) -> int:
    return _avalanche((start + sum(_fold(sums[i] ^ key[i], sums[i + 1] ^ key[i + 1]) for i in range(0, 8, 2))) & _MASK)


def xxh3_128_of_block(block: bytes, seed: int) -> int:
    """XXH3_128 of 4096 bytes, with a seed."""
    assert len(block) == BLOCK_BYTES
    secret = _seeded_secret(seed)
    sums = [_PRIME32_3, _PRIME64_1, _PRIME64_2, _PRIME64_3, _PRIME64_4, _PRIME32_2, _PRIME64_5, _PRIME32_1]
    stripes_per_round = (len(secret) - _STRIPE_BYTES) // 8
    stripe_count = (BLOCK_BYTES - 1) // _STRIPE_BYTES
    for number in range(stripe_count):
        place = number % stripes_per_round
        _accumulate(sums, _words(block, number * _STRIPE_BYTES, 8), _words(secret, place * 8, 8))
        if place == stripes_per_round - 1:
            key = _words(secret, len(secret) - _STRIPE_BYTES, 8)
            sums = [((value ^ value >> 47) ^ key[i]) * _PRIME32_1 & _MASK for i, value in enumerate(sums)]
    _accumulate(sums, _words(block, BLOCK_BYTES - _STRIPE_BYTES, 8), _words(secret, len(secret) - _STRIPE_BYTES - 7, 8))
    low = _merge(sums, _words(secret, 11, 8), BLOCK_BYTES * _PRIME64_1 & _MASK)
    high = _merge(sums, _words(secret, len(secret) - 64 - 11, 8), ~(BLOCK_BYTES * _PRIME64_2) & _MASK)
    return high << 64 | low


def xxh3_128_of_record(record: bytes) -> int:
    """XXH3_128 of 24 bytes, without a seed."""
    assert len(record) == 24
    secret = _words(_SECRET, 0, 4)
    first, last = _words(record, 0, 2), _words(record, 8, 2)
    low = (24 * _PRIME64_1 + _fold(first[0] ^ secret[0], first[1] ^ secret[1])) & _MASK
    low ^= (last[0] + last[1]) & _MASK
    high = _fold(last[0] ^ secret[2], last[1] ^ secret[3])
    high ^= (first[0] + first[1]) & _MASK
    mixed = (low * _PRIME64_1 + high * _PRIME64_4 + 24 * _PRIME64_2) & _MASK
    return (-_avalanche(mixed) & _MASK) << 64 | _avalanche((low + high) & _MASK)


def digest_of(content: bytes) -> str:
    """The digest of a disk that reads as `content`."""
    total = 0
    for start in range(0, len(content), BLOCK_BYTES):
        block = content[start : start + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0")
        if any(block):
            total += xxh3_128_of_block(block, start // BLOCK_BYTES)
    size_bytes = -(-len(content) // 512) * 512
    record = (total % 2**128).to_bytes(16, "little") + size_bytes.to_bytes(8, "little")
    return f"xxh3-{xxh3_128_of_record(record):032x}"
