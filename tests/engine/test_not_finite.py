"""NaN and infinity in an input, in every method: refused with the model that has them, or counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weightsmith as ws
from weightsmith.errors import MergeError
from weightsmith.methods.registry import METHODS


def save_models(folder: Path, spoiled: float, shape: tuple[int, int]) -> list[Path]:
    """`base`, `a`, `b`, `c`: files of one weight; the last element of `c` is spoiled."""
    paths = []
    for seed, name in enumerate(("base", "a", "b", "c")):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        if name == "c":
            weight[-1, -1] = spoiled
        paths.append(folder / f"{name}.safetensors")
        save_file({"up.weight": weight}, paths[-1])
    return paths


def recipe_of(name: str, base: Path, *tuned: Path) -> dict:
    method = METHODS[name]
    most = (method.inputs[1] or 9) - (method.needs_base or name == "nuslerp")
    own = {p.name for p in method.parameters if p.scope != "shared"}
    values = {key: value for key, value in (("weight", 0.5), ("density", 0.6)) if key in own}
    models = [{"model": str(path), "parameters": values} for path in tuned[-most:]]
    recipe = {"merge_method": name, "models": models, "dtype": "float32"}
    if method.needs_base:
        recipe["base_model"] = str(base)
    if "t" in {p.name for p in method.parameters}:
        recipe["parameters"] = {"t": 0.3}
    return recipe


@pytest.mark.parametrize("spoiled", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.reads_text])
def test_the_model_that_has_them_is_named(name: str, spoiled: float, tmp_path: Path) -> None:
    paths = save_models(tmp_path, spoiled, (12, 16))
    recipe = recipe_of(name, *paths)
    with pytest.raises(MergeError, match=r"c\.safetensors: tensor 'up\.weight' holds [01] NaN and [01] infinite"):
        ws.merge(recipe)
    with pytest.warns(UserWarning, match=r"1 tensors have NaN or infinite inputs, such as 'up\.weight' of .*c\."):
        tensors = ws.merge(recipe, on_nan="warn")
    assert not torch.isfinite(tensors["up.weight"][-1, -1])


@pytest.mark.parametrize("name", ["karcher", "multislerp", "nuslerp", "tsv_m"])
def test_a_block_that_has_none_itself_is_not_blamed(name: str, tmp_path: Path) -> None:
    """Norms and singular values carry a NaN into the first block, which has none."""
    paths = save_models(tmp_path, float("nan"), (600, 1024))
    with pytest.raises(MergeError, match=r"c\.safetensors: tensor 'up\.weight' holds 1 NaN and 0 infinite"):
        ws.merge(recipe_of(name, *paths))
