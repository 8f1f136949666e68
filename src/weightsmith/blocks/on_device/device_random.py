"""The random numbers of `random_stream.py`, drawn on the device that needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROUNDS, _M0, _M1, _W0, _W1, _LOW = 10, 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85, 0xFFFFFFFF
_PER_PAGE = 64  # numbers
_PIECE = 1 << 18  # pages that are drawn at once, a block of the usual size: each takes 32 words of 64 bits, a few times


def device_random_numbers(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """int64 [count], each below 2**32: elements `start` on of a stream, as `random_numbers` gives them."""
    import torch

    first, last = start // _PER_PAGE, -(-(start + count) // _PER_PAGE)
    drawn = torch.empty((last - first) * _PER_PAGE, dtype=torch.int64, device=device)
    for page in range(first, last, _PIECE):
        end = min(page + _PIECE, last)
        upper, lower = (_halves(key, page, end, third, device) for third in (0, 1))
        drawn[(page - first) * _PER_PAGE : (end - first) * _PER_PAGE] = (upper << 16) | lower
    begin = start - first * _PER_PAGE
    return drawn[begin : begin + count]


def _halves(key: int, first: int, last: int, third: int, device: torch.device) -> torch.Tensor:
    """int64 [64 (last - first)]: the words of 16 bits of pages `first` to `last`. Words of 32 bits are held in 64,
    whose products wrap around as those of unsigned words do."""
    import torch

    counters = torch.arange(8 * first, 8 * last, dtype=torch.int64, device=device)
    c0, c1 = counters & _LOW, (counters >> 32) & _LOW
    c2, c3 = torch.full_like(counters, third), torch.zeros_like(counters)
    a, b = key & _LOW, key >> 32
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c2 = ((p1 >> 32) & _LOW) ^ c1 ^ a, ((p0 >> 32) & _LOW) ^ c3 ^ b
        c1, c3 = p1 & _LOW, p0 & _LOW
        a, b = (a + _W0) & _LOW, (b + _W1) & _LOW
    words = torch.stack([c.view(-1, 8) for c in (c0, c1, c2, c3)], dim=1)  # [pages, 4, 8]
    return torch.stack([words & 0xFFFF, words >> 16], dim=-1).reshape(-1)
