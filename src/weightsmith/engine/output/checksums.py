"""`checksums.json`, written beside merged weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from weightsmith.engine.output.journal import JOURNAL
from weightsmith.errors import CheckpointError
from weightsmith.files.inputs.read_input import read_json
from weightsmith.model_card.describe_inputs import CARD

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path, digests: Mapping[str, str], run: str) -> None:
    """`digests`: tensor -> XXH3, 128 bits, of its bytes in the file (https://xxhash.com). `run`: what the weights were
    made from, as `output_digest` names it. To be called last: it notes the files that are there, with their sizes, but
    for the model card, which is for people to edit."""
    written = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (JOURNAL, CARD))
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in written}
    content = {"algorithm": "xxh3_128", "run": run, "files": files, "tensors": dict(sorted(digests.items()))}
    (folder / CHECKSUMS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def is_written(out: Path, run: str, inputs: Iterable[Path]) -> bool:
    """Whether `out` holds the whole output of `run`, and neither that nor one of its `inputs` (files) changed since."""
    path = out / CHECKSUMS
    try:
        content = read_json(path) if path.is_file() else {}
        files = content.get("files")
        if content.get("run") != run or not isinstance(files, dict):
            return False
        finished = path.stat().st_mtime_ns
        states = [((out / name).stat(), size) for name, size in files.items()]
        whole = all(state.st_size == size and state.st_mtime_ns <= finished for state, size in states)
        return whole and max(file.stat().st_ctime_ns for file in inputs) < finished
    except (CheckpointError, OSError, ValueError):
        return False


def read_checksums(path: Path) -> dict[str, str]:
    if not path.exists():
        raise CheckpointError(
            f"{path}: not there; `weightsmith merge` writes it beside the weights, as `unify` does", path=path
        )
    content = read_json(path)
    try:
        if content["algorithm"] != "xxh3_128":
            raise ValueError(f"the algorithm {content['algorithm']!r} is not known")
        return {str(name): str(digest) for name, digest in content["tensors"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error!r}", path=path) from error
