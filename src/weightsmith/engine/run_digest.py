"""What a run is, in a few digests: a run that was interrupted is only continued by the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from weightsmith import __version__
from weightsmith.checkpoint.weights_folder import find_weights
from weightsmith.recipe.plan import Plan

_HEAD = 1 << 20  # bytes of a file of weights that are hashed: its header, with most files


def run_digest(plan: Plan, shard_bytes: int, seed: int, device: str) -> dict[str, str]:
    """`recipe`, `inputs` (names, sizes, times and first bytes of all files), `layout` of the output, `seed`, `device` and `version`."""
    layout = [[t.name, t.info.shape, t.info.dtype, t.round_to] for t in plan.tensors]
    return {
        "recipe": _digest(plan.loaded.file.text),
        "inputs": _digest(list(_inputs(plan))),
        "layout": _digest([layout, plan.config, shard_bytes]),
        "seed": str(seed),
        "device": device,
        "version": __version__,
    }


def _inputs(plan: Plan) -> Iterator[list[object]]:
    for reference, model in sorted(plan.models.items()):
        for place in model.files:
            for path in _files(place):
                stat = path.stat()
                with path.open("rb") as file:
                    head = hashlib.blake2b(file.read(_HEAD), digest_size=16).hexdigest()
                yield [reference, path.name, stat.st_size, stat.st_mtime_ns, head]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    adapter = sorted(place.glob("adapter_*"))
    return adapter if adapter and not (place / "config.json").exists() else find_weights(place)[0]


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
