"""Names a model by its content, so that stored answers are never taken for those of other weights."""

from __future__ import annotations

from weightsmith.architecture import Model
from weightsmith.checkpoint.file_digests import FileDigests, digest

_WEIGHTS = {".safetensors", ".gguf", ".bin", ".pt", ".pth"}
_BESIDE = {".json", ".jinja", ".model", ".txt"}  # configuration and tokenizer; a README plays no part
_OF_A_RUN = {"checksums.json"}


def content_key(model: Model, precision: str, digests: FileDigests) -> str:
    """Of all weights, the configuration, the tokenizer, and what it computes in."""
    contents = []
    for place in dict.fromkeys([*model.files, model.home]):
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        kept = [p for p in inside if p.is_file() and p.suffix in _WEIGHTS | _BESIDE and p.name not in _OF_A_RUN]
        contents.append([[path.name, digests.of(path)] for path in kept])
    return digest([precision, contents])
