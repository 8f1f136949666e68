"""`weightsmith export`: a model folder to GGUF, quantized or not, the f16 file kept beside it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weightsmith.architecture import open_model
from weightsmith.errors import ExportError, OutputError
from weightsmith.export.convert import PLAIN_TYPES, convert
from weightsmith.export.llama_cpp import quantization_types
from weightsmith.export.quantizer import quantize
from weightsmith.recipe.yaml_file import nearest


@dataclass(frozen=True)
class ExportSummary:
    """`intermediate` is the f16 file a quantized one was made from, where it was kept."""

    out: Path
    bytes: int
    seconds: float
    intermediate: Path | None


def export(
    model: Path | str,
    out: Path | str,
    *,
    type: str = "f16",
    keep: bool = True,
    threads: int | None = None,
    force: bool = False,
    intermediate: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> ExportSummary:
    """Write `out` from a Hugging Face folder. `intermediate` is an f16 GGUF of the same model to start from, if there
    is one. Raises CheckpointError, ExportError or OutputError; no partial file is left."""
    started, source, out, kind = time.monotonic(), Path(model), Path(out), type.lower()
    known = [*PLAIN_TYPES, *quantization_types()]
    if kind not in known:
        raise ExportError(f"unknown GGUF type {type!r}{nearest(kind, known)}")
    if open_model(str(model)).is_gguf or not source.is_dir():
        raise ExportError(f"{model}: export takes a model folder; merge first (method passthrough copies a model)")
    if out.suffix != ".gguf":
        raise OutputError(f"{out}: the output's name ends in .gguf")
    if out.exists() and not force:
        raise OutputError(f"{out}: exists; choose another name, or replace it with --force")
    out.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(p.stat().st_size for p in source.glob("*.safetensors"))
    if shutil.disk_usage(out.parent).free < needed:
        raise OutputError(f"{out}: the disk is full: about {needed:,} bytes are needed")
    if kind in PLAIN_TYPES:
        say(f"converting to {kind}")
        _whole(out, lambda partial: convert(source, partial, kind))
        return ExportSummary(out, out.stat().st_size, time.monotonic() - started, None)
    plain = intermediate or _intermediate_name(out, kind)
    made = not plain.exists() or (intermediate is None and force)
    if not made and intermediate is None:
        raise OutputError(f"{plain}: exists, and is where the f16 intermediate goes; remove it, or use --force")
    try:
        if made:
            say("converting to f16")
            _whole(plain, lambda partial: convert(source, partial, "f16"))
        say(f"quantizing to {kind}")
        _whole(out, lambda partial: quantize(plain, partial, kind, threads=threads or len(os.sched_getaffinity(0))))
    finally:
        if made and not keep:
            plain.unlink(missing_ok=True)
    return ExportSummary(out, out.stat().st_size, time.monotonic() - started, plain if keep else None)


def _intermediate_name(out: Path, kind: str) -> Path:
    """model-q4_k_m.gguf is made from model-f16.gguf; any other name gets -f16 appended."""
    stem = out.stem
    lowered = stem.lower()
    stem = stem[: -len(kind)] + "f16" if lowered.endswith(kind) else f"{stem}-f16"
    return out.with_name(stem + ".gguf")


def _whole(out: Path, write: Callable[[Path], None]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    try:
        write(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
