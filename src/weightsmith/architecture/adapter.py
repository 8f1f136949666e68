"""A LoRA adapter on a model, whichever of its family's layouts the adapter was trained in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weightsmith.architecture.row_map import RowMappedCheckpoint
from weightsmith.architecture.scheme import map_rows, map_rows_back, schemes_of
from weightsmith.checkpoint.lora import LoraCheckpoint, adapted_tensors
from weightsmith.checkpoint.tensor import Checkpoint
from weightsmith.errors import CheckpointError


def with_adapter(
    base: Checkpoint, config: dict[str, Any], home: Path, adapter: Path
) -> tuple[Checkpoint, int, str | None]:
    """(`base` with the adapter added, the adapter's rank, the old layout whose names it has).

    An adapter in old names is added to the base seen in that layout, and the sum is seen in today's again: rows move, no
    number changes. Raises CheckpointError.
    """
    wanted = adapted_tensors(adapter)
    if not wanted <= base.tensors.keys():
        for scheme in schemes_of(config):
            if scheme.same_names:
                continue
            try:
                there = map_rows_back(scheme, home, base.tensors, config)
            except CheckpointError:
                continue  # the base has tensors that this layout has no place for
            if wanted <= there.keys():
                tuned = LoraCheckpoint(RowMappedCheckpoint(base, there), adapter)
                back, _ = map_rows(scheme, home, tuned.tensors, config)
                return RowMappedCheckpoint(tuned, {n: back[n] for n in base.tensors}), tuned.rank, scheme.name
    tuned = LoraCheckpoint(base, adapter)
    return tuned, tuned.rank, None
