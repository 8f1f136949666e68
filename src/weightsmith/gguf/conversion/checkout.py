"""Conversion by a llama.cpp checkout that the user names, of whatever version, instead of the converter on PyPI.

Its script reads folders, so the model is one: links to the weights where they are in today's names already, else a
unified copy that is removed afterwards. The script is the user's own; no code from the model's folder is in its reach.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.engine.run_tensors import run_tensors
from weightsmith.errors import ExportError
from weightsmith.gguf.conversion.export_source import ExportSource

SCRIPT = "convert_hf_to_gguf.py"
_SHARD = 5_000_000_000


class CheckoutConversion:
    """A `Conversion` by a checkout of llama.cpp (use it in a `with` block); what the file will be is not known before
    it is written."""

    notes: tuple[str, ...]
    architecture = ""
    plan = None

    def __init__(
        self, source: ExportSource, gguf_type: str, *, name: str, threads: int, checkout: Path, beside: Path
    ) -> None:
        """`beside`: a folder on the disk that the output goes to. Raises ExportError."""
        check_checkout(checkout)
        self._source, self._gguf_type, self._name, self._threads = source, gguf_type, name, threads
        self._checkout, self._beside = checkout, beside
        self.bytes = source.nbytes * {"f32": 2, "f16": 1, "bf16": 1}[gguf_type] + (
            0 if _plain_files(source) else source.nbytes
        )

    def __enter__(self) -> CheckoutConversion:
        self._folder = tempfile.TemporaryDirectory(prefix=".weightsmith-", dir=_existing(self._beside))
        try:
            folder = Path(self._folder.name) / self._name  # the converter takes more from the folder's name
            folder.mkdir()
            self.notes = tuple(self._source.stage(folder))
        except BaseException:
            self.__exit__()
            raise
        return self

    def write(self, out: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Raises ExportError with the script's own last words."""
        folder = Path(self._folder.name) / self._name
        files = _plain_files(self._source)
        for file in files:
            (folder / file.name).symlink_to(file.resolve())
        if not files:
            writer = ShardWriter(folder, {tensor.name: tensor.info for tensor in self._source.tensors}, _SHARD)
            run_tensors(
                self._source.ready_tensors,
                self._source.method,
                writer,
                self._threads,
                on_progress,
                settings=self._source.run_settings,
            )
            writer.close(sync=False)
        command = [
            sys.executable,
            str(self._checkout.resolve() / SCRIPT),
            str(folder),
            "--outfile",
            str(out.absolute()),
        ]
        command += ["--outtype", self._gguf_type, "--model-name", self._name]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False, cwd=self._checkout
        )
        if result.returncode:
            notes = [line for line in result.stderr.splitlines() if line.strip()]
            raise ExportError(
                f"{self._source.reference}: {self._checkout / SCRIPT} cannot convert it: "
                f"{notes[-1] if notes else 'no reason given'}"
            )

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def check_checkout(checkout: Path) -> None:
    """Raises ExportError where there is no converter in it."""
    if not (checkout / SCRIPT).is_file():
        raise ExportError(f"{checkout}: has no {SCRIPT}; --llama-cpp names a checkout of llama.cpp")


def _plain_files(source: ExportSource) -> list[Path]:
    """The safetensors files of a folder that needs no conversion; empty: weights have to be written."""
    if len(source.files) != 1 or not source.files[0].is_dir() or source.home.conversion or not _only_copies(source):
        return []
    folder = source.files[0]
    return [*sorted(folder.glob("*.safetensors")), *folder.glob("model.safetensors.index.json")]


def _only_copies(source: ExportSource) -> bool:
    return all(tensor.copy and tensor.sources[0].tensor == tensor.name for tensor in source.tensors)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
