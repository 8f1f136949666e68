"""mergekit 0.1.5, run in this process."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def run_mergekit(recipe: dict, out: Path) -> dict[str, torch.Tensor]:
    """Every tensor that mergekit makes of `recipe`."""
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    LoaderCache().loaders.clear()  # what another test had at the same path
    options = MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(recipe), str(out), options)
    merged: dict[str, torch.Tensor] = {}
    for shard in out.glob("*.safetensors"):
        merged |= load_file(shard)
    return merged
