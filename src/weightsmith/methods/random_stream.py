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
_SHIFT = np.uint64(32)


def stream_key(seed: int, model: int, tensor: str) -> int:
    """64 bits for one input of one tensor: `model` is its place in the recipe, so that moving a folder changes nothing."""
    text = f"{seed}/{model}/{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@numba.njit(nogil=True, cache=True)
def fill_random(key: np.uint64, start: int, out: np.ndarray) -> None:
    """Elements `start` to `start + len(out)` of a stream into `out`, uint32. Blocks that start at a multiple of four are fastest."""
    first = start // 4
    groups = (start + out.size + 3) // 4 - first
    skip = start - 4 * first
    k0, k1 = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> _SHIFT)
    for g in range(groups):
        counter = np.uint64(first + g)
        c0, c1, c2, c3 = (
            np.uint32(counter & np.uint64(0xFFFFFFFF)),
            np.uint32(counter >> _SHIFT),
            np.uint32(0),
            np.uint32(0),
        )
        a, b = k0, k1
        for _ in range(_ROUNDS):
            p0, p1 = np.uint64(c0) * _M0, np.uint64(c2) * _M1
            h0, h1 = np.uint32(p0 >> _SHIFT), np.uint32(p1 >> _SHIFT)
            l0, l1 = np.uint32(p0 & np.uint64(0xFFFFFFFF)), np.uint32(p1 & np.uint64(0xFFFFFFFF))
            c0, c1, c2, c3 = h1 ^ c1 ^ a, l1, h0 ^ c3 ^ b, l0
            a, b = np.uint32(a + _W0), np.uint32(b + _W1)
        at = 4 * g - skip
        if at >= 0 and at + 4 <= out.size:
            out[at] = c0
            out[at + 1] = c1
            out[at + 2] = c2
            out[at + 3] = c3
        else:
            if 0 <= at < out.size:
                out[at] = c0
            if 0 <= at + 1 < out.size:
                out[at + 1] = c1
            if 0 <= at + 2 < out.size:
                out[at + 2] = c2
            if 0 <= at + 3 < out.size:
                out[at + 3] = c3


def random_numbers(key: int, start: int, count: int) -> np.ndarray:
    """uint32 [count]."""
    out = np.empty(count, np.uint32)
    fill_random(np.uint64(key), start, out)
    return out


def below(probability: float) -> int:
    """The bound below which a uint32 is with that probability, to within 2**-32."""
    return min(max(round(probability * 2**32), 0), 2**32 - 1)
