"""The llama.cpp library, from a package with prebuilt binaries (docs/decisions.md says why this one)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from weightsmith.errors import ExportError

FTYPE_PREFIX = "LLAMA_FTYPE_MOSTLY_"


@lru_cache(maxsize=1)
def load_llama_cpp() -> tuple[Any, Any]:
    """(ffi, lib), with llama.cpp's log turned off. Raises ExportError where the package is not installed."""
    try:
        from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib
    except ImportError as error:
        raise ExportError("this needs llama.cpp: `pip install 'weightsmith[gguf]'`") from error
    ffi, lib = get_ffi(), get_lib()
    _keep_alive.append(ffi.callback("ggml_log_callback", lambda level, text, data: None))
    lib.llama_log_set(_keep_alive[-1], ffi.NULL)
    lib.llama_backend_init()
    return ffi, lib


_keep_alive: list[Any] = []


def quantization_types() -> dict[str, int]:
    """Names such as `q4_k_m`, with llama.cpp's number for each."""
    ffi, _ = load_llama_cpp()
    names = ffi.typeof("enum llama_ftype").relements
    return {n.removeprefix(FTYPE_PREFIX).lower(): v for n, v in names.items() if n.startswith(FTYPE_PREFIX)}
