"""llama.cpp's own converter, given tensors that are computed when it writes them. `conversion.py` starts it in a
process of its own, as it imports torch and transformers and changes the converter's classes.

Standard input is two JSON lines: what to convert, then, once that was found possible, where to (without it nothing is
written). Standard output is JSON lines: {"said": text}; {"prepared": ...}; {"done": bytes, "total": bytes}; {"written":
sha256}; or {"error": text, "kind": name of a WeightsmithError}.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from weightsmith.checkpoint.dtypes import torch_dtypes
from weightsmith.engine.tensor_scan import Stopped
from weightsmith.engine.workers.on_threads import Stop, on_threads
from weightsmith.errors import ExportError, WeightsmithError
from weightsmith.files.output_folder import reporting_full_disk
from weightsmith.gguf.conversion.aligned_write import aligned_write, begin_writeback
from weightsmith.gguf.conversion.converter_config import converter_config
from weightsmith.gguf.conversion.export_source import ExportJob, ExportSource, open_source
from weightsmith.gguf.conversion.growing_digest import GrowingDigest
from weightsmith.gguf.conversion.pre_tokenizer import pre_tokenizer_name
from weightsmith.planning.plan import TensorPlan

Send = Callable[[dict[str, Any]], None]


def prepared(source: ExportSource, folder: Path, gguf_type: str, name: str, send: Send) -> Any:
    """The converter's model for `source` as f32, f16 or bf16, its writer filled with tensors that are not computed yet.
    `folder` is empty, for small files. Raises ExportError."""
    for line in source.stage(folder):
        send({"said": line})
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    }
    hparams = converter_config(ModelBase.load_hparams(folder, False))
    architecture = get_model_architecture(hparams, ModelType.TEXT)
    try:
        converter_class = get_model_class(architecture)
    except NotImplementedError:
        raise ExportError(
            f"{source.reference}: llama.cpp's converter does not know the architecture {architecture}; a newer "
            "llama.cpp may: name its folder with --llama-cpp"
        ) from None
    try:
        model = _fed_class(converter_class, source, send)(
            folder, file_types[gguf_type], folder / "plan.gguf", model_name=name, hparams=hparams
        )
        model.prepare_tensors()
        model.prepare_metadata(vocab_only=False)
    except WeightsmithError:
        raise
    except Exception as error:  # the converter raises whatever comes to it
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"{source.reference}: llama.cpp's converter cannot convert it: "
            f"{reason[-1] if reason else type(error).__name__}"
        ) from error
    return model


def _fed_class(converter_class: Any, source: ExportSource, send: Send) -> Any:
    """The converter's class, reading from `source` instead of files."""
    from conversion.base import LazyTorchTensor

    total, done, lock = source.nbytes, 0, threading.Lock()

    def load(tensor: TensorPlan) -> Any:
        nonlocal done
        loaded = source.load(tensor)
        with lock:
            done += tensor.info.nbytes
            send({"done": done, "total": total})
        return loaded

    class FedModel(converter_class):
        model_arch = converter_class.model_arch

        def index_tensors(self, remote_hf_model_id: str | None = None) -> dict[str, Any]:
            tensors = {}
            for tensor in source.tensors:

                def lazy(tensor: TensorPlan = tensor) -> Any:
                    dtype = torch_dtypes()[tensor.info.dtype]
                    meta = LazyTorchTensor.meta_with_dtype_and_shape(dtype, tensor.info.shape)
                    return LazyTorchTensor(meta=meta, args=(tensor,), func=load)

                if item := self.filter_tensors((tensor.name, lazy)):
                    tensors[item[0]] = item[1]
            return tensors

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            try:
                return super().get_vocab_base_pre(tokenizer)
            except NotImplementedError:
                name = pre_tokenizer_name(tokenizer)
                if name is None:
                    raise ExportError(
                        f"{source.reference}: its tokenizer splits text in a way that llama.cpp's converter does not "
                        "know; a newer llama.cpp may know it: name its folder with --llama-cpp"
                    ) from None
                send({"said": f"tokenizer: unknown to llama.cpp's converter; it splits text as {name} does"})
                return name

    return FedModel


class Layout:
    """Where the converter's tensors lie in a file, whose head is written to `plan`, and behind it a hole of their size:
    llama.cpp can tell from that what a quantized file would be."""

    def __init__(self, writer: Any, plan: Path) -> None:
        from gguf import LazyNumpyTensor

        self._eager: Callable[[Any], np.ndarray] = LazyNumpyTensor.to_eager
        self._plan = plan
        writer.write_header_to_file(path=plan)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        self._head = end = writer.ggml_pad(plan.stat().st_size, writer.data_alignment)
        self._tensors = writer.tensors[0]
        self._offsets: dict[str, int] = {}
        for name, info in self._tensors.items():
            self._offsets[name] = end
            end += writer.ggml_pad(info.nbytes, writer.data_alignment)
        self.nbytes = end
        os.truncate(plan, end)

    def write(self, out: Path, threads: int) -> str:
        """The file as a whole, on the disk; each tensor is forgotten when it is written. Returns the SHA-256 of the
        file, which is computed behind the tensors that are there. Raises OutputError where the disk is full."""
        with reporting_full_disk(out), out.open("w+b") as file:
            file.write(self._plan.open("rb").read(self._head))
            file.truncate(self.nbytes)
            file.flush()
            hashing = GrowingDigest(file.fileno(), [*list(self._offsets.values())[1:], self.nbytes])

            def work(name: str, stop: Stop) -> None:
                if stop.is_set():
                    raise Stopped
                info = self._tensors[name]
                data = np.ascontiguousarray(self._eager(info.tensor)).reshape(-1).view(np.uint8)
                info.tensor = None
                with one_writer:  # the kernel has one writer per file at a time, and lets others spin
                    aligned_write(file.fileno(), data, self._offsets[name])
                begin_writeback(file.fileno(), self._offsets[name], len(data))
                hashing.written(positions[name])

            one_writer = threading.Lock()
            positions = {name: number for number, name in enumerate(self._offsets)}
            with hashing:
                for _ in on_threads(work, list(self._tensors), threads, tick=lambda: None):
                    pass
                os.fsync(file.fileno())
            return hashing.hexdigest()


def main() -> int:
    """Exit code 0: done, or not asked to continue; 2: cannot be done."""
    job = json.loads(sys.stdin.readline())
    logging.disable(logging.CRITICAL)
    lines, sys.stdout = sys.stdout, sys.stderr  # libraries print

    def send(line: dict[str, Any]) -> None:
        lines.write(json.dumps(line) + "\n")
        lines.flush()

    try:
        source, folder = open_source(ExportJob(**job["source"])), Path(job["folder"])
        model = prepared(source, folder, job["kind"], job["name"], send)
        plan = folder / "plan.gguf"
        layout = Layout(model.gguf_writer, plan)
        send({"prepared": str(plan), "architecture": model.gguf_writer.arch, "bytes": layout.nbytes})
        if go := sys.stdin.readline():
            send({"written": layout.write(Path(json.loads(go)["out"]), job["threads"])})
    except WeightsmithError as error:
        send({"error": str(error), "kind": type(error).__name__})
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
