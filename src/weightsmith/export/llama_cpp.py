"""The llama.cpp library, through llama-cpp-python's C bindings (docs/decisions.md says why this package)."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from weightsmith.errors import ExportError

_FTYPE_PREFIX = "LLAMA_FTYPE_MOSTLY_"
GGML_LOG_LEVEL_ERROR = 4
_callbacks: list[Any] = []  # native code keeps a pointer to the last one


@lru_cache(maxsize=1)
def load_llama_cpp() -> Any:
    """The module of C functions, with llama.cpp's log turned off. Raises ExportError where it is not installed."""
    try:
        from llama_cpp import llama_cpp
    except ImportError as error:
        raise ExportError("this needs llama.cpp: `pip install 'weightsmith[gguf]'`") from error
    llama_cpp.llama_backend_init()
    collect_errors()
    return llama_cpp


def collect_errors() -> list[str]:
    """Route llama.cpp's log into a new list that keeps its error lines alone."""
    from llama_cpp import llama_cpp

    said: list[str] = []

    def listen(level: int, text: bytes, data: object) -> None:
        if level == GGML_LOG_LEVEL_ERROR:
            said.append(text.decode(errors="replace").strip())

    _callbacks[:] = [*_callbacks[-1:], llama_cpp.llama_log_callback(listen)]
    llama_cpp.llama_log_set(_callbacks[-1], ctypes.c_void_p(0))
    return said


def quantization_types() -> dict[str, int]:
    """Names such as `q4_k_m`, with llama.cpp's number for each."""
    names = vars(load_llama_cpp())
    return {n.removeprefix(_FTYPE_PREFIX).lower(): v for n, v in names.items() if n.startswith(_FTYPE_PREFIX)}
