"""Random numbers that depend on a key and a position alone: Philox4x32-10 (Salmon et al. 2011, doi
10.1145/2063384.2063405).

Counters go in eights, which are one vector register: counters 8p to 8p + 7 give page p, 32 words of 32 bits, first the
lowest word of each counter, then the second of each, and so on. Element e of a stream is a number of 32 bits. Its upper
half is the 16-bit word e % 64 of page e // 64 with counters (n, 0, 0, 0), its lower half the same word with counters
(n, 0, 1, 0). Blocks, threads and their order change nothing, and the lower half need only be computed where the upper
one does not decide a comparison.
"""

from __future__ import annotations

import hashlib

import numpy as np

from weightsmith.blocks.numba_support.compile import kernel
from weightsmith.blocks.numba_support.stretch import stretch

_ROUNDS = 10
_M0, _M1 = (
    np.uint64(0xD2511F53),
    np.uint64(0xCD9E8D57),
)  # multipliers and Weyl constants of the reference implementation
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_SHIFT, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
UPPER, LOWER = np.int64(0), np.int64(1)  # halves; as plain numbers, each would be compiled for itself
MORE = 64  # words of memory beyond those asked for: the first and the last page may be cut


def stream_key(seed: int, model: int, tensor: str) -> int:
    """64 bits for one input of one tensor: `model` is its place in the recipe, so that moving a folder changes
    nothing."""
    text = f"{seed}/{model}/{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@kernel()
def fill_pages(key: np.uint64, page: int, third: int, out: np.ndarray) -> None:
    """uint32 [32 n]: pages `page` on. `third` is the third word of the counters."""
    k0, k1 = np.uint32(key & _LOW), np.uint32(key >> _SHIFT)
    for number in range(out.size // 32):
        words, first = out[32 * number : 32 * number + 32], np.uint64(8 * (page + number))
        for g in range(8):
            counter = first + np.uint64(g)
            c0, c1, c2, c3 = np.uint32(counter & _LOW), np.uint32(counter >> _SHIFT), np.uint32(third), np.uint32(0)
            a, b = k0, k1
            for _ in range(_ROUNDS):
                p0, p1 = np.uint64(c0) * _M0, np.uint64(c2) * _M1
                c0, c2 = np.uint32(p1 >> _SHIFT) ^ c1 ^ a, np.uint32(p0 >> _SHIFT) ^ c3 ^ b
                c1, c3 = np.uint32(p1 & _LOW), np.uint32(p0 & _LOW)
                a, b = np.uint32(a + _W0), np.uint32(b + _W1)
            words[g], words[8 + g], words[16 + g], words[24 + g] = c0, c1, c2, c3


@kernel()
def fill_halves(key: np.uint64, start: int, lower: int, memory: np.ndarray, count: int) -> np.ndarray:
    """uint16 [count]: the UPPER (`lower` 0) or LOWER (1) halves of elements `start` on. `memory`: uint32, at least
    `count` / 2 + MORE; the result is a part of it."""
    page = start // 64
    words = stretch(memory, np.uint32, 0, 32 * ((start + count + 63) // 64 - page))
    fill_pages(key, page, lower, words)
    return stretch(words, np.uint16, start - 64 * page, count)


def random_numbers(key: int, start: int, count: int) -> np.ndarray:
    """uint32 [count]: elements `start` on of a stream."""
    upper, lower = (
        fill_halves(np.uint64(key), start, half, np.empty(count // 2 + MORE, np.uint32), count) for half in (0, 1)
    )
    return upper.astype(np.uint32) << 16 | lower


def below(probability: float) -> int:
    """The bound below which a uint32 is with that probability, to within 2**-32."""
    return min(max(round(probability * 2**32), 0), 2**32 - 1)
