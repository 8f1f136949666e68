"""`weightsmith export`: a model, whatever its layout, to GGUF files of several types, made from one unquantized
file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weightsmith.errors import ExportError
from weightsmith.files.output_folder import check_apart, check_place
from weightsmith.files.suggestions import nearest
from weightsmith.files.write_whole import write_whole
from weightsmith.gguf.build_files import ExportedFile, ExportSettings, FileBuilder, Log
from weightsmith.gguf.companions.export_card import provenance_of, write_export_card
from weightsmith.gguf.companions.ollama import hub_files, modelfile
from weightsmith.gguf.conversion.checkout import check_checkout
from weightsmith.gguf.conversion.conversion import PLAIN_TYPES
from weightsmith.gguf.conversion.export_source import ExportJob, open_source
from weightsmith.gguf.fidelity import CHECKS
from weightsmith.gguf.output_files import OutputFiles, check_name
from weightsmith.gguf.quantization.calibration import check_text
from weightsmith.gguf.quantization.importance import read_importance
from weightsmith.llama_cpp import quantization_types
from weightsmith.machine import available_cores
from weightsmith.model_card.license import license_of
from weightsmith.progress import OnProgress, no_progress
from weightsmith.tokenizer.merged_tokenizer import tokenizer_model
from weightsmith.tokenizer.untrusted.try_tokenizer import try_tokenizer


@dataclass(frozen=True)
class ExportSummary:
    """`files` in the order asked for; `intermediate`: the unquantized file that quantized ones were made from, where it
    is kept; `modelfile`: for Ollama, None where a single file was asked for."""

    out: Path
    files: tuple[ExportedFile, ...]
    intermediate: Path | None
    modelfile: Path | None
    seconds: float


def export(
    model: Path | str | ExportJob,
    out: Path | str,
    *,
    types: str | Sequence[str] = "f16",
    intermediate: str = "auto",
    keep: bool = True,
    imatrix: Path | str | None = None,
    calibrate: Path | str | None = None,
    check: str = "fast",
    name: str | None = None,
    llama_cpp: Path | str | None = None,
    threads: int | None = None,
    force: bool = False,
    log: Log = lambda text: None,
    on_progress: OnProgress = no_progress,
) -> ExportSummary:
    """Write `model` (a reference, or an `ExportJob` for a merge that has not been written) as GGUF.

    `out` is a file that ends in .gguf, for one type, or a folder, for any number: NAME-TYPE.gguf each, and a manifest
    that says which of them are up to date and need not be built again. `intermediate` is the type of the unquantized
    file that quantized ones are made from: f32, f16 or bf16; auto: bf16 for weights in bfloat16, else f16. `imatrix`
    is an importance matrix, or `calibrate` a text that one is computed from. `check`: `fast`, `full` or `none`, see
    `check.py`. `name`: general.name; by default the model's. `force` replaces what is in the way. `llama_cpp` is a
    checkout whose converter replaces the installed one. Raises CheckpointError, ExportError or OutputError, before the
    long work for everything that can be known then; a file appears under its name only when it is whole and checked.

    >>> files = ws.export("coder", "gguf", types=["q8_0"]).files
    >>> [file.path.name for file in files]
    ['coder-q8_0.gguf']
    """
    started = time.monotonic()
    job = model if isinstance(model, ExportJob) else ExportJob(model=str(model))
    gguf_types = check_types([types] if isinstance(types, str) else types)
    if intermediate not in ("auto", *PLAIN_TYPES):
        raise ExportError(f"unknown intermediate {intermediate!r}{nearest(intermediate, PLAIN_TYPES)}")
    if check not in CHECKS:
        raise ExportError(f"unknown check {check!r}{nearest(check, CHECKS)}")
    importance, text = Path(imatrix) if imatrix else None, Path(calibrate) if calibrate else None
    if importance and text:
        raise ExportError("give an importance matrix or a text to compute one from, not both")
    if importance:
        read_importance(importance)
    if text:
        check_text(text)
    checkout = Path(llama_cpp) if llama_cpp else None
    if checkout:
        check_checkout(checkout)
    source = open_source(job)
    try_tokenizer(tokenizer_model(source.home, source.vocabulary).home)
    for warning in source.warnings:
        log(f"warning: {warning}")
    if part := source.other_parts:
        log(
            f"{part} tensors of other parts (vision, sound) are not in the file: llama.cpp reads them from one of "
            "its own"
        )
    name = check_name(name or source.name)
    if intermediate == "auto":
        intermediate = "bf16" if source.main_dtype == "BF16" else "f16"
    settings = ExportSettings(
        job=job,
        source=source,
        name=name,
        intermediate=intermediate,
        importance=importance,
        calibrate=text,
        full=check == "full",
        check=check != "none",
        llama_cpp=checkout,
        threads=threads or available_cores(),
        log=log,
        on_progress=on_progress,
    )
    output = OutputFiles(Path(out), name, gguf_types, force=force)
    read = [*source.files, *(Path(path) for path in (job.recipe, importance, text) if path)]
    for gguf_type in dict.fromkeys((*gguf_types, intermediate)):
        check_apart(output.path(gguf_type), read)
    check_place(output.path(gguf_types[0]))
    with output.held():
        files = FileBuilder(settings, output).build(gguf_types)
        plain = output.path(intermediate) if any(gguf_type not in PLAIN_TYPES for gguf_type in gguf_types) else None
        if plain and not keep and intermediate not in gguf_types:
            output.drop(intermediate)
            plain = None
        written = _write_companions(files, settings, output.folder) if output.manifest else None
    return ExportSummary(Path(out), tuple(files), plain, written, time.monotonic() - started)


def check_types(types: Sequence[str]) -> list[str]:
    """The types in lower case. Raises ExportError where one is not known or given twice."""
    gguf_types, known = [gguf_type.lower() for gguf_type in types], [*PLAIN_TYPES, *quantization_types()]
    for gguf_type in gguf_types:
        if gguf_type not in known:
            raise ExportError(f"unknown GGUF type {gguf_type!r}{nearest(gguf_type, known)}")
    if len(set(gguf_types)) < len(gguf_types):
        raise ExportError(f"the type {max(gguf_types, key=gguf_types.count)!r} is given twice")
    return gguf_types


def _write_companions(files: list[ExportedFile], settings: ExportSettings, folder: Path) -> Path:
    """The Modelfile for Ollama, of the first quantized file, or the first one; what the hub hands to Ollama
    (https://huggingface.co/docs/hub/ollama); and the model card. Returns the Modelfile."""
    from weightsmith.evaluation.backends.llama_cpp.llama_cpp_process import LlamaCppProcess

    file = next((file for file in files if file.type not in PLAIN_TYPES), files[0])
    loaded = LlamaCppProcess(file.path, vocabulary_only=True)
    tokens, source = settings.reference.tokens, settings.source
    bos, eos = (tokens.decode([token], special=True) if token is not None else "" for token in (tokens.bos, tokens.eos))
    provenance = provenance_of(source, settings.threads)
    license = license_of(provenance.inputs)
    ollama = modelfile(
        file.path.name,
        tokens.template,
        settings.reference.stop_texts,
        bos=bos,
        eos=eos,
        adds_bos=loaded.adds_bos,
        config=source.config,
        license=license.keys.get("license_name") or license.keys.get("license"),
    )
    if ollama.reason:
        settings.log(
            f"Modelfile: has no template, because {ollama.reason}; Ollama uses the template in the file where it "
            "knows it"
        )
    if ollama.family:
        built_in = ollama.family.renderer or ollama.family.parser
        settings.log(f"Modelfile: names what Ollama has built in for this family ({built_in})")
    if license.warning:
        settings.log(f"warning: {license.warning}")
    for name, text in hub_files(ollama).items():
        write_whole(folder / name, text)
    of_merged_folder = source.plan is None and provenance.method is not None
    if not write_export_card(
        folder,
        settings.name,
        provenance,
        main_file=file.path.name,
        chat=tokens.template is not None,
        of_merged_folder=of_merged_folder,
    ):
        settings.log("README.md: is not the one that weightsmith wrote, so it is left as it is")
    return write_whole(folder / "Modelfile", ollama.text)
