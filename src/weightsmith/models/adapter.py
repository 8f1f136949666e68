"""A LoRA adapter on a model, whichever of its family's layouts the adapter was trained in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.views.lora import LoraCheckpoint, adapted_tensors
from weightsmith.checkpoint.views.row_mapped import RowMappedCheckpoint
from weightsmith.errors import CheckpointError
from weightsmith.models.naming.detect import schemes_of
from weightsmith.models.naming.map_tensors import map_rows, map_rows_back
from weightsmith.models.naming.scheme import Scheme


def with_adapter(
    base: Checkpoint, config: dict[str, Any], home: Path, adapter: Path
) -> tuple[Checkpoint, int, str | None]:
    """(`base` with the adapter added, the adapter's rank, the old layout whose names it has).

    An adapter in old names is added to the base seen in that layout, and the sum is seen in today's again: rows move,
    no number changes. Raises CheckpointError.
    """
    adapted = adapted_tensors(adapter)
    if not adapted <= base.tensors.keys() and (layout := layout_with(adapted, base, config, home)):
        scheme, in_old_layout = layout
        tuned = LoraCheckpoint(in_old_layout, adapter)
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
            in_old_layout = RowMappedCheckpoint(base, map_rows_back(scheme, home, base.tensors, config))
        except CheckpointError:
            continue  # the base has tensors that this layout has no place for
        if names <= in_old_layout.tensors.keys():
            return scheme, in_old_layout
    return None
