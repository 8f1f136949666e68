"""`checksums.json`, written beside merged weights, and `weightsmith verify`, which reads the weights again and compares."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from weightsmith.checkpoint.weights_folder import WeightsFolder
from weightsmith.engine.on_threads import on_threads
from weightsmith.errors import CheckpointError

CHECKSUMS = "checksums.json"
_BLOCK = 1 << 20  # elements per read


@dataclass(frozen=True)
class Verification:
    """`damaged`: tensors whose bytes are not those that were written; `missing`: not there any more; `more`: not written by
    the merge."""

    tensors: int
    bytes: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    more: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not (self.damaged or self.missing or self.more)


def write_checksums(folder: Path, digests: Mapping[str, str]) -> None:
    """`digests`: tensor -> XXH3, 128 bits, of its bytes in the file (https://xxhash.com)."""
    content = {"algorithm": "xxh3_128", "tensors": dict(sorted(digests.items()))}
    (folder / CHECKSUMS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def verify(out: Path | str, *, threads: int = 2, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Read every weight of the merged folder `out` and compare it with what was noted when it was written. Raises
    CheckpointError for a folder without checksums, or with files that cannot be read as weights."""
    out = Path(out)
    noted = _read(out / CHECKSUMS)
    weights = WeightsFolder(out)
    here = sorted(noted.keys() & weights.tensors.keys())
    total, done, damaged = sum(weights.tensors[name].nbytes for name in here), 0, []

    def work(name: str, stop: threading.Event) -> tuple[str, str]:
        info, digest = weights.tensors[name], xxhash.xxh3_128()
        for start in range(0, info.numel, _BLOCK):
            if stop.is_set():
                break
            block = np.empty(min(_BLOCK, info.numel - start), info.numpy_dtype)
            weights.read(name, start, start + len(block), block)
            digest.update(block.view(np.uint8).data)
        return name, digest.hexdigest()

    def tick() -> None:
        if progress:
            progress(done, total)

    for name, digest in on_threads(work, here, threads, tick=tick):
        done += weights.tensors[name].nbytes
        if digest != noted[name]:
            damaged.append(name)
    missing, more = noted.keys() - weights.tensors.keys(), weights.tensors.keys() - noted.keys()
    return Verification(len(here), total, tuple(sorted(damaged)), tuple(sorted(missing)), tuple(sorted(more)))


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["algorithm"] != "xxh3_128":
            raise ValueError(f"the algorithm {content['algorithm']!r} is not known")
        return {str(name): str(digest) for name, digest in content["tensors"].items()}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: not there; `weightsmith merge` writes it beside the weights, as `unify` does"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error!r}") from error
