"""`weightsmith verify`: read merged weights again and compare them with the checksums noted when they were written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from weightsmith.checkpoint.weights_folder import ADAPTER_WEIGHTS, WeightsFolder, open_weights
from weightsmith.engine.output.checksums import CHECKSUMS, read_checksums
from weightsmith.engine.workers.on_threads import Stop, on_threads
from weightsmith.progress import OnProgress, Progress, no_progress

_BLOCK = 1 << 20  # elements per read


@dataclass(frozen=True)
class Verification:
    """`damaged`: tensors whose bytes are not those that were written; `missing`: not there any more; `extra`: not
    written by the merge."""

    tensors: int
    bytes: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not (self.damaged or self.missing or self.extra)


def verify(out: Path | str, *, threads: int = 2, on_progress: OnProgress = no_progress) -> Verification:
    """Read every weight of the merged folder `out` and compare it with what was noted when it was written. Raises
    CheckpointError for a folder without checksums, or with files that cannot be read as weights.

    >>> ws.merge("ties.yml", "merged").out.name
    'merged'
    >>> ws.verify("merged").sound
    True
    """
    out = Path(out)
    expected = read_checksums(out / CHECKSUMS)
    adapter = out / ADAPTER_WEIGHTS
    weights = open_weights(adapter) if adapter.is_file() else WeightsFolder(out)
    present = sorted(expected.keys() & weights.tensors.keys())
    total, done, damaged = sum(weights.tensors[name].nbytes for name in present), 0, []

    def work(name: str, stop: Stop) -> tuple[str, str]:
        info, digest = weights.tensors[name], xxhash.xxh3_128()
        for start in range(0, info.numel, _BLOCK):
            if stop.is_set():
                break
            block = np.empty(min(_BLOCK, info.numel - start), info.numpy_dtype)
            weights.read(name, start, start + len(block), block)
            digest.update(block.view(np.uint8).data)
        return name, digest.hexdigest()

    def tick() -> None:
        on_progress(Progress("verifying", done, total, "bytes"))

    for name, digest in on_threads(work, present, threads, tick=tick):
        done += weights.tensors[name].nbytes
        if digest != expected[name]:
            damaged.append(name)
    missing, extra = expected.keys() - weights.tensors.keys(), weights.tensors.keys() - expected.keys()
    return Verification(len(present), total, tuple(sorted(damaged)), tuple(sorted(missing)), tuple(sorted(extra)))
