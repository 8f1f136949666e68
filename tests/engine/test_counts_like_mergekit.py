"""The methods that need no density, against mergekit 0.1.5: one, two, three and five models, some of them equal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith
from tests.engine.test_merge_like_mergekit import assert_same
from tests.mergekit_oracle import run_mergekit

NEED_WEIGHTS, NEED_BASE = ("multislerp", "nuslerp", "linear"), ("ram", "ramplus_tl", "sce", "nearswap", "arcee_fusion")
COUNTS = {"nuslerp": (2,), "nearswap": (1,), "arcee_fusion": (1,)}  # besides the base; others take any number
CASES = {  # how each of five models differs from the base: by noise of its own, not at all, or as another one does
    "all apart": (1, 2, 3, 4, 5),
    "nothing moved": (0, 0, 0, 0, 0),
    "all the same": (1, 1, 1, 1, 1),
    "one did not move": (1, 0, 2, 2, 3),
}


@pytest.fixture(scope="module")
def tuned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """0: the base; 1 to 5: fine-tunes of it."""
    weights = load_file(models / "base" / "model.safetensors")
    generator, folders = torch.Generator().manual_seed(3), {0: models / "base"}
    for number in range(1, 6):
        folders[number] = tmp_path_factory.mktemp("tuned") / str(number)
        shutil.copytree(models / "base", folders[number])
        moved = {name: w + 0.01 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
        save_file(moved, folders[number] / "model.safetensors", {"format": "pt"})
    return folders


def recipe_of(method: str, folders: list[Path], base: Path) -> dict:
    entries = [{"model": str(folder)} for folder in folders]
    if method in NEED_WEIGHTS:
        entries = [e | {"parameters": {"weight": 0.4 + 0.2 * i}} for i, e in enumerate(entries)]
    made = {"merge_method": method, "models": entries, "dtype": "float32"}
    if method in NEED_BASE:
        made["base_model"] = str(base)
    if method == "nearswap":
        made["parameters"] = {"t": 0.005}
    return made


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [*NEED_WEIGHTS, "karcher", *NEED_BASE])
def test_any_number_of_models_like_mergekit(
    method: str, case: str, tuned: dict[int, Path], models: Path, tmp_path: Path
) -> None:
    for count in COUNTS.get(method, (1, 2, 3, 5)):
        folders = []
        for i, number in enumerate(CASES[case][:count]):
            folders.append(tmp_path / f"{count}-{i}")
            folders[-1].symlink_to(tuned[number])
        made = recipe_of(method, folders, models / "base")
        path = tmp_path / f"{count}.yml"
        path.write_text(yaml.safe_dump(made))
        weightsmith.merge(path, tmp_path / f"ours-{count}")
        ours = load_file(tmp_path / f"ours-{count}" / "model.safetensors")
        assert_same(ours, run_mergekit(made, tmp_path / f"theirs-{count}"), relative=2e-6)
        if case == "nothing moved":
            base = load_file(models / "base" / "model.safetensors")
            assert_same(ours, base, relative=2e-6)
