"""An unquantized GGUF file to a quantized one, by llama.cpp's quantizer.

It runs in a process of its own (`child.py`), which says {"done": tensors, "total": tensors}, then what `Quantized`
holds.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.child_process import run_child
from weightsmith.errors import ExportError, OutputError
from weightsmith.gguf.quantization.importance import read_importance
from weightsmith.llama_cpp import LOG_ERROR, load_llama_cpp, on_log, quantization_types

_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\] ")
_FALLBACK = re.compile(r"required for type\s+(\w+)\)")
_INSTEAD = re.compile(r"falling back to\s+(\w+)")
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB \(([\d.]+) BPW\)")


@dataclass(frozen=True)
class Quantized:
    """`bytes` of the tensors, `bits_per_weight` of all of them together, `fallbacks`: tensors whose rows do not divide
    into the type's blocks, as (type wished for, type used, how many); `needs_importance`: known of a dry run."""

    bytes: int
    bits_per_weight: float
    fallbacks: tuple[tuple[str, str, int], ...]
    needs_importance: bool = False


def quantize(
    source: Path,
    out: Path,
    gguf_type: str,
    *,
    threads: int,
    importance: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Quantized:
    """`gguf_type` as llama.cpp names it: q8_0, q4_k_m, ...; `importance` is a file of `importance.py`. Raises
    ExportError where llama.cpp refuses, OutputError where it cannot write."""
    job = {
        "source": str(source),
        "out": str(out),
        "kinds": [gguf_type],
        "threads": threads,
        "dry_run": False,
        "refuse": True,
    }
    (results,) = _run(job | {"importance": str(importance) if importance else None}, on_progress)
    return results


def dry_runs(source: Path, types: Sequence[str], *, refuse: bool = False) -> dict[str, Quantized]:
    """What each of `types` would make of it, from names and shapes alone. What llama.cpp cannot make is left out; or,
    with `refuse`, ExportError is raised."""
    job = {
        "source": str(source),
        "out": os.devnull,
        "kinds": list(types),
        "threads": 1,
        "dry_run": True,
        "refuse": refuse,
    }
    results = _run(job | {"importance": None}, lambda done, total: None) if types else []
    return {gguf_type: result for gguf_type, result in zip(types, results, strict=True) if result.bytes}


def _run(job: dict[str, Any], on_progress: Callable[[int, int], None]) -> list[Quantized]:
    results: list[Quantized] = []

    def on_line(line: dict[str, Any]) -> None:
        if "done" in line:
            return on_progress(line["done"], line["total"])
        fallbacks = tuple((requested, used, count) for requested, used, count in line["fallbacks"])
        results.append(Quantized(line["bytes"], line["bits_per_weight"], fallbacks, line["needs_importance"]))

    code, last_line = run_child("weightsmith.gguf.quantization.quantizer", job, on_line)
    if len(results) < len(job["kinds"]):
        gguf_type = job["kinds"][len(results)]
        if "iostream error" in last_line:  # all that the C++ library says of a write that failed
            raise OutputError(
                f"{job['out']}: cannot be written; most likely the disk is full: free some space and run again"
            )
        raise ExportError(
            f"{job['source']}: llama.cpp cannot quantize it to {gguf_type}: {last_line or f'it ended with {code}'}"
        )
    return results


def _quantize_here(job: dict[str, Any]) -> int:
    library = load_llama_cpp()
    for gguf_type in job["kinds"]:
        errors: list[str] = []
        quantizer_log = _Log()

        def on_log_line(level: int, text: str, quantizer_log: _Log = quantizer_log, errors: list[str] = errors) -> None:
            try:
                quantizer_log.on_line(text)
            except BrokenPipeError:  # who asked is gone
                os._exit(1)
            if level == LOG_ERROR:
                errors.append(text.strip())

        on_log(on_log_line)
        parameters = library.llama_model_quantize_default_params()
        parameters.nthread, parameters.ftype = job["threads"], quantization_types()[gguf_type]
        parameters.dry_run = job["dry_run"]
        if job["importance"]:
            parameters.imatrix = read_importance(Path(job["importance"])).entries()
        code = library.llama_model_quantize(job["source"].encode(), job["out"].encode(), ctypes.byref(parameters))
        if code and job["refuse"]:
            print(errors[-1] if errors else f"error {code}", flush=True)
            return 1
        fallbacks = [[*pair, count] for pair, count in sorted(quantizer_log.fallbacks.items())]
        result = {"bytes": quantizer_log.bytes, "bits_per_weight": quantizer_log.bits, "fallbacks": fallbacks}
        print(json.dumps(result | {"needs_importance": quantizer_log.needs_importance}), flush=True)
    return 0


class _Log:
    """What llama.cpp's quantizer says of its work, which it tells in no other way."""

    def __init__(self) -> None:
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        self.bytes, self.bits, self.needs_importance = 0, 0.0, False
        self._requested = ""

    def on_line(self, text: str) -> None:
        if match := _TENSOR.search(text):
            print(json.dumps({"done": int(match[1]), "total": int(match[2])}), flush=True)
        if match := _FALLBACK.search(text):
            self._requested = match[1].lower()
        if match := _INSTEAD.search(text):
            self.fallbacks[self._requested, match[1].lower()] += 1
        self.needs_importance |= "will require an imatrix" in text
        if match := _SIZE.search(text):
            self.bytes, self.bits = round(float(match[1]) * (1 << 20)), float(match[2])


if __name__ == "__main__":
    sys.exit(_quantize_here(json.loads(sys.argv[1])))
