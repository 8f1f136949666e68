"""Random numbers that depend on a key and a position alone: Philox4x32-10 (Salmon et al. 2011, doi 10.1145/2063384.2063405).

Element e of a stream is lane e % 4 of counter e // 4, so that blocks, threads and their order change nothing.
"""

from __future__ import annotations

import hashlib

import numba
import numpy as np

_ROUNDS = 10
_M0, _M1 = (
    np.uint64(0xD2511F53),
    np.uint64(0xCD9E8D57),
)  # multipliers and Weyl constants of the reference implementation
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_SHIFT, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_TILE = 1 << 10  # counters that go through the rounds together, in vector registers and the first-level cache


def stream_key(seed: int, model: int, tensor: str) -> int:
    """64 bits for one input of one tensor: `model` is its place in the recipe, so that moving a folder changes nothing."""
    text = f"{seed}/{model}/{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def fill_random(key: int, start: int, out: np.ndarray) -> None:
    """Elements `start` to `start + len(out)` of a stream into `out`, uint32."""
    if start % 4 == 0 and len(out) % 4 == 0:
        return _fill(np.uint64(key), np.uint64(start // 4), out)
    first = start // 4
    whole = np.empty(4 * (-(-(start + len(out)) // 4) - first), np.uint32)
    _fill(np.uint64(key), np.uint64(first), whole)
    out[:] = whole[start - 4 * first :][: len(out)]


@numba.njit(nogil=True, cache=True)
def _fill(key: np.uint64, first: np.uint64, out: np.ndarray) -> None:
    """Four numbers from each counter, from `first` on."""
    k0, k1 = np.uint32(key & _LOW), np.uint32(key >> _SHIFT)
    lanes = np.empty((4, _TILE), np.uint32)
    groups = out.size // 4
    for begin in range(0, groups, _TILE):
        count = min(_TILE, groups - begin)
        c0, c1, c2, c3 = lanes[0, :count], lanes[1, :count], lanes[2, :count], lanes[3, :count]
        for g in range(count):
            counter = first + np.uint64(begin + g)
            c0[g], c1[g], c2[g], c3[g] = (
                np.uint32(counter & _LOW),
                np.uint32(counter >> _SHIFT),
                np.uint32(0),
                np.uint32(0),
            )
        a, b = k0, k1
        for _ in range(_ROUNDS):
            for g in range(count):
                p0, p1 = np.uint64(c0[g]) * _M0, np.uint64(c2[g]) * _M1
                old1, old3 = c1[g], c3[g]
                c0[g] = np.uint32(p1 >> _SHIFT) ^ old1 ^ a
                c1[g] = np.uint32(p1 & _LOW)
                c2[g] = np.uint32(p0 >> _SHIFT) ^ old3 ^ b
                c3[g] = np.uint32(p0 & _LOW)
            a, b = np.uint32(a + _W0), np.uint32(b + _W1)
        part = out[4 * begin : 4 * (begin + count)]
        for g in range(count):
            part[4 * g], part[4 * g + 1], part[4 * g + 2], part[4 * g + 3] = c0[g], c1[g], c2[g], c3[g]


def random_numbers(key: int, start: int, count: int) -> np.ndarray:
    """uint32 [count]."""
    out = np.empty(count, np.uint32)
    fill_random(key, start, out)
    return out


def below(probability: float) -> int:
    """The bound below which a uint32 is with that probability, to within 2**-32."""
    return min(max(round(probability * 2**32), 0), 2**32 - 1)
