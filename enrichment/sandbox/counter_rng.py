"""Counter-based random numbers: the n-th is a function of n, so any bar can be computed alone.

The bits come from splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Floats

Bits = NDArray[np.uint64]
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_EVEN_PARTS = np.uint64(0x0000FFFF0000FFFF)


def seed_of(*parts: object) -> int:
    """A 64-bit seed from the parts' text, the same in every process."""
    digest = blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def random_bits(seed: int, stream: int, counter: NDArray[Any]) -> Bits:
    """64 random bits for each counter, independent between streams."""
    start = np.uint64((seed + stream * 0xD1342543DE82EF95) & _MASK)
    x: Bits = counter.astype(np.uint64)
    x += np.uint64(1)
    x *= np.uint64(_GOLDEN)
    x += start
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def uniform(bits: Bits, part: int) -> Floats:
    """One of the four independent 16-bit parts (0 to 3) of the bits, as numbers in (0, 1)."""
    field = (bits >> np.uint64(16 * part)) & np.uint64(0xFFFF)
    return (field.astype(np.float64) + 0.5) / 65536.0


def normal(bits: Bits) -> Floats:
    """Approximately standard normal numbers: the scaled sum of four uniform ones."""
    pairs = (bits & _EVEN_PARTS) + ((bits >> np.uint64(16)) & _EVEN_PARTS)
    fields = (pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))
    total = (fields.astype(np.float64) + 2.0) / 65536.0
    return np.asarray((total - 2.0) * np.sqrt(3.0))


def fraction(seed: int, stream: int, counter: int) -> float:
    """One number in (0, 1)."""
    return float(uniform(random_bits(seed, stream, np.array([counter])), 0)[0])
