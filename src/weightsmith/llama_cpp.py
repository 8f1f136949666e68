"""The llama.cpp library, through llama-cpp-python's C bindings (docs/decisions.md says why this package)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from weightsmith.errors import ExportError

_FTYPE_PREFIX = "LLAMA_FTYPE_MOSTLY_"
LOG_ERROR = 4  # a level of the log (ggml.h)
_callbacks: list[Any] = []  # native code keeps a pointer to the last one


@lru_cache(maxsize=1)
def load_llama_cpp() -> Any:
    """The module of C functions, with llama.cpp's log turned off. Raises ExportError where it is not installed."""
    try:
        from llama_cpp import llama_cpp
    except ImportError as error:
        raise ExportError("this needs llama.cpp: `pip install 'weightsmith[gguf]'`") from error
    llama_cpp.llama_backend_init()
    on_log(lambda level, text: None)
    return llama_cpp


def on_log(listen: Callable[[int, str], None]) -> None:
    """Send llama.cpp's log to `listen` instead of its last listener: a level, and a text that may be part of a
    line."""
    from llama_cpp import llama_cpp

    def hear(level: int, text: bytes, data: object) -> None:
        listen(level, text.decode(errors="replace"))

    _callbacks[:] = [*_callbacks[-1:], llama_cpp.llama_log_callback(hear)]
    llama_cpp.llama_log_set(_callbacks[-1], ctypes.c_void_p(0))


@contextmanager
def collect_errors(errors: list[str]) -> Iterator[None]:
    """Collect the error lines of llama.cpp's log."""
    on_log(lambda level, text: errors.append(text.strip()) if level == LOG_ERROR else None)
    try:
        yield
    finally:
        on_log(lambda level, text: None)


def quantization_types() -> dict[str, int]:
    """Names such as `q4_k_m`, with llama.cpp's number for each."""
    names = vars(load_llama_cpp())
    return {"f32": names["LLAMA_FTYPE_ALL_F32"]} | {
        n.removeprefix(_FTYPE_PREFIX).lower(): v for n, v in names.items() if n.startswith(_FTYPE_PREFIX)
    }
