"""A GGUF file seen in the names, row order and configuration of the `transformers` class it was made from."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.checkpoint.tensor import TensorInfo, natural_key
from weightsmith.errors import CheckpointError


class CanonicalGGUF:
    """A view of a GGUF checkpoint in canonical names. Raises CheckpointError for an architecture with no scheme."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        scheme = _scheme_for(file)
        self.config = _config(file, scheme["config"])
        self.tensors: dict[str, TensorInfo] = {}
        self._source: dict[str, tuple[str, int]] = {}  # GGUF name, rows per rotary head (0: rows are in order)
        rules = [(_pattern(rule["from"]), name, rule) for name, rule in scheme["tensors"].items()]
        for source, info in file.tensors.items():
            hits = ((match, name, rule) for pattern, name, rule in rules if (match := pattern.fullmatch(source)))
            hit = next(hits, None)
            if hit is None:
                raise CheckpointError(
                    f"{file.path}: tensor {source!r} has no place in the {self.config['model_type']} scheme"
                )
            match, name, rule = hit
            canonical = name.replace("{n}", match["n"]) if "n" in match.groupdict() else name
            heads = self.config[rule["rotary_heads"]] if "rotary_heads" in rule else 0
            if heads and info.shape[0] % (2 * heads):
                raise CheckpointError(
                    f"{file.path}: tensor {source!r}: {info.shape[0]} rows are not {heads} rotary heads"
                )
            self.tensors[canonical] = info
            self._source[canonical] = (source, info.shape[0] // heads if heads else 0)
        self.config["tie_word_embeddings"] = "lm_head.weight" not in self.tensors
        self.config["vocab_size"] = self.tensors["model.embed_tokens.weight"].shape[0]
        self.tensors = dict(sorted(self.tensors.items(), key=lambda item: natural_key(item[0])))

    def read(self, name: str, start: int, stop: int, out: torch.Tensor) -> None:
        source, head = self._source[name]
        if not head:
            return self._file.read(source, start, stop, out)
        # llama.cpp stores each head's rotary pairs side by side (0 1 0 1 ...), transformers in two halves (0 0 .. 1 1 ..).
        info = self.tensors[name]
        width = info.numel // info.shape[0]
        unit = head * width
        first, last = start // unit, -(-stop // unit)
        rows = torch.empty((last - first) * unit, dtype=torch.float32)
        self._file.read(source, first * unit, last * unit, rows)
        halves = rows.reshape(last - first, head // 2, 2, width).transpose(1, 2).reshape(-1)
        out.copy_(halves[start - first * unit : stop - first * unit])


def _scheme_for(file: GGUFFile) -> dict[str, Any]:
    folder = resources.files("weightsmith.architecture") / "schemes"
    known = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        scheme = json.loads(entry.read_text(encoding="utf-8"))
        if all(file.metadata.get(key) == value for key, value in scheme["detect"].items()):
            return scheme
        known.append(scheme["detect"]["general.architecture"])
    raise CheckpointError(
        f"{file.path}: GGUF architecture {file.metadata.get('general.architecture')!r} cannot be read; "
        f"known: {', '.join(known)}. Use the model's safetensors folder instead"
    )


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{n\}", r"(?P<n>\d+)"))


def _config(file: GGUFFile, rules: dict[str, Any]) -> dict[str, Any]:
    for key in rules["refuse"]:
        if file.metadata.get(key) not in (None, 0, "none"):
            raise CheckpointError(
                f"{file.path}: {key} is {file.metadata[key]!r}; this variant of the architecture is not read yet"
            )
    config: dict[str, Any] = dict(rules["constants"])
    for name, key in rules["keys"].items():
        value = file.metadata.get(key, rules["defaults"].get(name))
        if value is None and name not in rules["defaults"]:
            raise CheckpointError(f"{file.path}: the GGUF metadata misses {key}")
        # GGUF keeps float32; the shortest decimal of that float32 is the number the author wrote (1e-05).
        config[name] = float(str(np.float32(value))) if isinstance(value, float) else value
    return config


def is_gguf(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".gguf"
