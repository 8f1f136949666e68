"""An unquantized GGUF file to a quantized one, by llama.cpp's quantizer.

It runs in a process of its own, so that Ctrl-C stops it and a crash in native code is one clear message.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

from weightsmith.errors import ExportError
from weightsmith.export.llama_cpp import collect_errors, load_llama_cpp, quantization_types


def quantize(source: Path, out: Path, kind: str, *, threads: int) -> None:
    """`kind` as llama.cpp names it: q8_0, q4_k_m, ... Raises ExportError where llama.cpp refuses."""
    command = [sys.executable, "-P", "-m", "weightsmith.export.quantizer", str(source), str(out), kind, str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        out.unlink(missing_ok=True)
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise ExportError(
            f"{source}: llama.cpp cannot quantize it to {kind}: {lines[-1] if lines else result.returncode}"
        )


def _quantize_here(source: str, out: str, kind: str, threads: int) -> int:
    library = load_llama_cpp()
    said = collect_errors()
    parameters = library.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype = threads, quantization_types()[kind]
    code = library.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(parameters))
    if code:
        print(said[-1] if said else f"error {code}", file=sys.stderr)
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(_quantize_here(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
