"""Loops that numba compiles: the interpreter's lock released, the machine code kept for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from weightsmith.blocks.numba_support.kernel_cache import kept_in_user_cache


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`@kernel()` on a function of arrays and numbers; `options` are numba's (`fastmath`, `error_model`)."""

    def compiled(function: Callable[..., Any]) -> Any:
        known = {"nogil": True, "no_cfunc_wrapper": True, **options}
        try:
            with kept_in_user_cache():
                return numba.njit(cache=True, **known)(function)
        except (
            RuntimeError
        ):  # no folder can be written, neither beside the source nor the user's: compiled by each process
            return numba.njit(**known)(function)

    return compiled


def inner_kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`kernel` for what other kernels call and no Python code does: the code that would be called from there, a third
    of a small kernel's, is not compiled."""
    return kernel(no_cpython_wrapper=True, **options)
