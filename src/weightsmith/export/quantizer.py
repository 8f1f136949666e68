"""An unquantized GGUF file to a quantized one, by llama.cpp's quantizer.

It runs in a process of its own (`child.py`), which says {"done": tensors, "total": tensors}, then what `Quantized` holds.
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

from weightsmith.errors import ExportError, OutputError
from weightsmith.export.child import run_child
from weightsmith.export.importance import read_importance
from weightsmith.llama_cpp import LOG_ERROR, load_llama_cpp, on_log, quantization_types

_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\] ")
_FALLBACK = re.compile(r"required for type\s+(\w+)\)")
_INSTEAD = re.compile(r"falling back to\s+(\w+)")
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB \(([\d.]+) BPW\)")


@dataclass(frozen=True)
class Quantized:
    """`bytes` of the tensors, `bits_per_weight` of all of them together, `fallbacks`: tensors whose rows do not divide into the type's
    blocks, as (type wished for, type used, how many); `needs_importance`: known of a dry run."""

    bytes: int
    bits_per_weight: float
    fallbacks: tuple[tuple[str, str, int], ...]
    needs_importance: bool = False


def quantize(
    source: Path, out: Path, kind: str, *, threads: int, importance: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Quantized:  # fmt: skip
    """`kind` as llama.cpp names it: q8_0, q4_k_m, ...; `importance` is a file of `importance.py`. Raises ExportError where llama.cpp
    refuses, OutputError where it cannot write."""
    order = {
        "source": str(source),
        "out": str(out),
        "kinds": [kind],
        "threads": threads,
        "dry_run": False,
        "refuse": True,
    }
    (found,) = _ask(order | {"importance": str(importance) if importance else None}, progress)
    return found


def dry_runs(source: Path, kinds: Sequence[str], *, refuse: bool = False) -> dict[str, Quantized]:
    """What each of `kinds` would make of it, from names and shapes alone. What llama.cpp cannot make is left out; or, with `refuse`,
    ExportError is raised."""
    order = {
        "source": str(source),
        "out": os.devnull,
        "kinds": list(kinds),
        "threads": 1,
        "dry_run": True,
        "refuse": refuse,
    }
    found = _ask(order | {"importance": None}, lambda done, total: None) if kinds else []
    return {kind: one for kind, one in zip(kinds, found, strict=True) if one.bytes}


def _ask(order: dict[str, Any], progress: Callable[[int, int], None]) -> list[Quantized]:
    found: list[Quantized] = []

    def hear(line: dict[str, Any]) -> None:
        if "done" in line:
            return progress(line["done"], line["total"])
        fallbacks = tuple((wished, used, count) for wished, used, count in line["fallbacks"])
        found.append(Quantized(line["bytes"], line["bits_per_weight"], fallbacks, line["needs_importance"]))

    code, said = run_child("weightsmith.export.quantizer", order, hear)
    if len(found) < len(order["kinds"]):
        kind = order["kinds"][len(found)]
        if "iostream error" in said:  # all that the C++ library says of a write that failed
            raise OutputError(
                f"{order['out']}: cannot be written; most likely the disk is full: free some space and run again"
            )
        raise ExportError(
            f"{order['source']}: llama.cpp cannot quantize it to {kind}: {said or f'it ended with {code}'}"
        )
    return found


def _quantize_here(order: dict[str, Any]) -> int:
    library = load_llama_cpp()
    for kind in order["kinds"]:
        errors: list[str] = []
        found = _Log()

        def listen(level: int, text: str, found: _Log = found, errors: list[str] = errors) -> None:
            try:
                found.hear(text)
            except BrokenPipeError:  # who asked is gone
                os._exit(1)
            if level == LOG_ERROR:
                errors.append(text.strip())

        on_log(listen)
        parameters = library.llama_model_quantize_default_params()
        parameters.nthread, parameters.ftype = order["threads"], quantization_types()[kind]
        parameters.dry_run = order["dry_run"]
        if order["importance"]:
            parameters.imatrix = read_importance(Path(order["importance"])).entries()
        code = library.llama_model_quantize(order["source"].encode(), order["out"].encode(), ctypes.byref(parameters))
        if code and order["refuse"]:
            print(errors[-1] if errors else f"error {code}", flush=True)
            return 1
        fallbacks = [[*pair, count] for pair, count in sorted(found.fallbacks.items())]
        told = {"bytes": found.bytes, "bits_per_weight": found.bits, "fallbacks": fallbacks}
        print(json.dumps(told | {"needs_importance": found.needs_importance}), flush=True)
    return 0


class _Log:
    """What llama.cpp's quantizer says of its work, which it tells in no other way."""

    def __init__(self) -> None:
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        self.bytes, self.bits, self.needs_importance = 0, 0.0, False
        self._wished = ""

    def hear(self, text: str) -> None:
        if match := _TENSOR.search(text):
            print(json.dumps({"done": int(match[1]), "total": int(match[2])}), flush=True)
        if match := _FALLBACK.search(text):
            self._wished = match[1].lower()
        if match := _INSTEAD.search(text):
            self.fallbacks[self._wished, match[1].lower()] += 1
        self.needs_importance |= "will require an imatrix" in text
        if match := _SIZE.search(text):
            self.bytes, self.bits = round(float(match[1]) * (1 << 20)), float(match[2])


if __name__ == "__main__":
    sys.exit(_quantize_here(json.loads(sys.argv[1])))
