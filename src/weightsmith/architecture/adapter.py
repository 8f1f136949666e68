"""A LoRA adapter on a model, whichever of its family's layouts the adapter was trained in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weightsmith.architecture.row_map import RowMappedCheckpoint
from weightsmith.architecture.scheme import Scheme, map_rows, map_rows_back, schemes_of
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
    if not wanted <= base.tensors.keys() and (found := layout_with(wanted, base, config, home)):
        scheme, there = found
        tuned = LoraCheckpoint(there, adapter)
        back, _ = map_rows(scheme, home, tuned.tensors, config)
        return RowMappedCheckpoint(tuned, {n: back[n] for n in base.tensors}), tuned.rank, scheme.name
    tuned = LoraCheckpoint(base, adapter)
    return tuned, tuned.rank, None


def layout_with(
    names: set[str], base: Checkpoint, config: dict[str, Any], home: Path
) -> tuple[Scheme, RowMappedCheckpoint] | None:
    """The old layout of the family that has all of `names`, and `base` seen in it; None where there is none."""
    for scheme in schemes_of(config):
        if scheme.same_names:
            continue
        try:
            there = RowMappedCheckpoint(base, map_rows_back(scheme, home, base.tensors, config))
        except CheckpointError:
            continue  # the base has tensors that this layout has no place for
        if names <= there.tensors.keys():
            return scheme, there
    return None
