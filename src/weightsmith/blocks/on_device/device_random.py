"""The random numbers of `random_stream.py`, drawn on the device that needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROUNDS, _M0, _M1, _W0, _W1, _LOW = 10, 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85, 0xFFFFFFFF
_PER_PAGE = 64  # numbers
_PIECE = 1 << 18  # pages that are drawn at once, a block of the usual size


def device_random_numbers(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """int64 [count], each below 2**32: elements `start` on of a stream, as `random_numbers` gives them."""
    import torch

    first, last = start // _PER_PAGE, -(-(start + count) // _PER_PAGE)
    drawn = torch.empty((last - first) * _PER_PAGE, dtype=torch.int64, device=device)
    for page in range(first, last, _PIECE):
        end = min(page + _PIECE, last)
        upper, lower = _halves(key, page, end, device)
        torch.add(lower, upper, alpha=1 << 16, out=drawn[(page - first) * _PER_PAGE : (end - first) * _PER_PAGE])
    begin = start - first * _PER_PAGE
    return drawn[begin : begin + count]


def _halves(key: int, first: int, last: int, device: torch.device) -> torch.Tensor:
    """int64 [2, 64 (last - first)]: the words of 16 bits of pages `first` to `last`, of upper halves and of lower ones.
    Words of 32 bits are held in 64, whose products wrap around as those of unsigned words do. Both halves and both
    products of a round are computed at once: a device has as much to do, and is told so less often."""
    import torch

    rounds = [[(key >> 32) + n * _W1 & _LOW, (key & _LOW) + n * _W0 & _LOW] for n in range(_ROUNDS)]
    constants = torch.tensor([[_M0, _M1], *rounds], device=device).unsqueeze(-1)  # [1 + rounds, 2, 1]
    counters = torch.arange(8 * first, 8 * last, dtype=torch.int64, device=device)
    factors = torch.zeros((2, 2, 8 * (last - first)), dtype=torch.int64, device=device)  # c0 and c2 of each half
    others = torch.zeros_like(factors)  # c3 and c1
    factors[:, 0], factors[1, 1], others[:, 1] = counters & _LOW, 1, (counters >> 32) & _LOW
    for round_key in constants[1:]:
        products = factors * constants[0]
        others ^= round_key
        factors = ((products >> 32) & _LOW).bitwise_xor_(others).flip(1)
        others = products.bitwise_and_(_LOW)
    words = torch.stack([factors[:, 0], others[:, 1], factors[:, 1], others[:, 0]], dim=1)  # [2, 4, counters]
    words = words.view(2, 4, -1, 8).transpose(1, 2)  # [2, pages, 4, 8]
    return torch.stack([words & 0xFFFF, words >> 16], dim=-1).reshape(2, -1)
