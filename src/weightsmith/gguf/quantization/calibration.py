"""An importance matrix computed by llama.cpp from a text: the squares of what every weight matrix is multiplied with,
summed up.

As llama.cpp's own tool does it (tools/imatrix/imatrix.cpp), by the callback that its scheduler offers for every
operation. It runs in a process of its own (`child_process.py`), which prints {"done": chunks, "total": chunks}, or
{"error": text}.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.child_process import run_child
from weightsmith.errors import ExportError
from weightsmith.files.inputs.read_input import MAX_TEXT_BYTES, read_text
from weightsmith.gguf.quantization.importance import Importance
from weightsmith.llama_cpp import load_llama_cpp

CHUNK = 512  # tokens
_FEWEST_ROWS = 16  # llama.cpp leaves smaller products out


def calibrate(
    model: Path,
    text: Path,
    out: Path,
    *,
    chunks: int | None = None,
    threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the importance matrix of an unquantized GGUF `model` for `text` (UTF-8), at most `chunks` of 512 tokens of
    it. Raises ExportError."""
    check_text(text)
    job = {"model": str(model), "text": str(text), "out": str(out), "chunks": chunks, "threads": threads}

    def on_line(line: dict[str, Any]) -> None:
        if "error" in line:
            raise ExportError(line["error"])
        on_progress(line["done"], line["total"])

    code, last_line = run_child("weightsmith.gguf.quantization.calibration", job, on_line)
    if code:
        raise ExportError(
            f"{model}: llama.cpp cannot compute an importance matrix: {last_line or f'it ended with {code}'}"
        )


def check_text(text: Path) -> str:
    """The text. Raises ExportError where it cannot be read or is empty."""
    content = read_text(text, limit=MAX_TEXT_BYTES, error=ExportError)
    if not content.strip():
        raise ExportError(f"{text}: is empty")
    return content


class _Tensor(ctypes.Structure):
    """struct ggml_tensor (ggml.h), as far as `extra`."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]
_OBJECT = 32  # bytes of struct ggml_object, which ggml_tensor_overhead() counts as well


class _Collector:
    """llama.cpp's callback: asked of each operation whether its result is wanted, then called when it is there."""

    def __init__(self, ggml: Any) -> None:
        ggml.ggml_tensor_overhead.restype = ctypes.c_size_t
        if ggml.ggml_tensor_overhead() != ctypes.sizeof(_Tensor) + _OBJECT:
            raise ExportError(
                "the installed llama.cpp lays out tensors in a way that this version of Weightsmith does not know; "
                "use --imatrix"
            )
        ggml.ggml_op_name.restype = ctypes.c_char_p
        names = {ggml.ggml_op_name(number): number for number in range(100)}
        self._product, self._expert_product = names[b"MUL_MAT"], names[b"MUL_MAT_ID"]
        self.importance = Importance({}, {}, "", 0, CHUNK)
        self.failed: BaseException | None = None

    def __call__(self, pointer: int, is_question: bool, _: object) -> bool:
        try:
            tensor = ctypes.cast(pointer, ctypes.POINTER(_Tensor)).contents
            if is_question:
                return self._needs_result(tensor)
            if tensor.op == self._product:
                self._add_product(tensor)
            else:
                self._add_experts(tensor)
        except Exception as error:  # native code cannot pass it on
            self.failed = error
            return False
        return True

    def _needs_result(self, tensor: _Tensor) -> bool:
        if tensor.op == self._expert_product:
            return True
        if tensor.op != self._product:
            return False
        values = tensor.src[1].contents
        return bool(values.ne[1] >= _FEWEST_ROWS and values.type == 0 and _name(tensor).startswith("blk."))

    def _add_product(self, tensor: _Tensor) -> None:
        values = _floats(tensor.src[1].contents)  # [.., matrices, rows, columns]
        squares = (values.astype(np.float32) ** 2).sum(axis=2).reshape(-1, values.shape[-1])
        matrices = int(tensor.src[0].contents.ne[2] * tensor.src[0].contents.ne[3])
        squares = squares.reshape(matrices, -1, squares.shape[-1]).sum(axis=1)
        self._add(_name(tensor), squares, np.full(matrices, values.shape[2], np.float32))

    def _add_experts(self, tensor: _Tensor) -> None:
        values = _floats(tensor.src[1].contents)[0]  # [tokens, experts asked or 1, columns]
        expert_ids = tensor.src[2].contents
        ids = np.stack(
            [
                np.ctypeslib.as_array(
                    ctypes.cast(expert_ids.data + row * expert_ids.nb[1], ctypes.POINTER(ctypes.c_int32)),
                    (expert_ids.ne[0],),
                )
                for row in range(expert_ids.ne[1])
            ]
        )  # [tokens, experts asked]
        squares = np.broadcast_to(values**2, (*ids.shape, values.shape[-1]))
        sums = np.zeros((tensor.src[0].contents.ne[2], values.shape[-1]), np.float32)
        np.add.at(sums, ids.reshape(-1), squares.reshape(-1, values.shape[-1]))
        self._add(_name(tensor), sums, np.bincount(ids.reshape(-1), minlength=len(sums)).astype(np.float32))

    def _add(self, name: str, sums: np.ndarray, counts: np.ndarray) -> None:
        if name in self.importance.sums:
            self.importance.sums[name] += sums
            self.importance.counts[name] += counts
        else:
            self.importance.sums[name], self.importance.counts[name] = sums, counts


def _name(tensor: _Tensor) -> str:
    """The name of the weights; the scheduler may have put `#` and more around it."""
    name = tensor.src[0].contents.name.decode(errors="replace")
    return name.split("#")[1] if name.count("#") >= 2 else name


def _floats(tensor: _Tensor) -> np.ndarray:
    """float32, dimensions in numpy's order; a view."""
    shape = tuple(tensor.ne[3 - k] for k in range(4))
    strides = tuple(tensor.nb[3 - k] for k in range(4))
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 4
    flat = np.ctypeslib.as_array(ctypes.cast(tensor.data, ctypes.POINTER(ctypes.c_uint8)), (last,))
    return np.lib.stride_tricks.as_strided(flat.view(np.float32), shape, strides)


def _calibrate_here(job: dict[str, Any]) -> None:
    from llama_cpp import llama_cpp

    from weightsmith.evaluation.backends.llama_cpp.llama_cpp_context import LlamaCppContext
    from weightsmith.evaluation.backends.llama_cpp.llama_cpp_model import LlamaCppModel

    load_llama_cpp()
    model = LlamaCppModel(Path(job["model"]))
    text = Path(job["text"])
    tokens = model.tokenize(check_text(text), special=False)
    total = min(len(tokens) // CHUNK, job["chunks"] or len(tokens))
    if not total:
        raise ExportError(f"{text}: has {len(tokens)} tokens; at least {CHUNK} are needed")
    import llama_cpp._ggml as binding

    collector = _Collector(binding.libggml)
    callback = llama_cpp.ggml_backend_sched_eval_callback(collector)
    settings: Any = {"batch_size": CHUNK, "threads": job["threads"], "on_operation": callback}
    with LlamaCppContext(model, CHUNK, **settings) as context:
        for chunk in range(total):
            part = tokens[chunk * CHUNK : (chunk + 1) * CHUNK].copy()
            if model.bos is not None and model.adds_bos:
                part[0] = model.bos
            context.remove(-1, 0)
            context.decode([(int(token), position, [0], True) for position, token in enumerate(part)])
            if collector.failed:
                raise collector.failed
            print(json.dumps({"done": chunk + 1, "total": total}), flush=True)
    importance = collector.importance
    importance.dataset, importance.chunks = text.name, total
    importance.write(Path(job["out"]))


if __name__ == "__main__":
    try:
        _calibrate_here(json.loads(sys.argv[1]))
    except ExportError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(2)
