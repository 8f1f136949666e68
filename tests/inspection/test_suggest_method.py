"""What is suggested for fine-tunes of which it is known how they were made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import weightsmith_process
from weightsmith.inspection.movement import measure_movement
from weightsmith.inspection.suggest_method import suggest
from weightsmith.models.open_model import open_model

ROWS, COLUMNS = 64, 128


def directions(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, COLUMNS, generator=generator) for _ in range(count)]


def few(direction: torch.Tensor, seed: int) -> torch.Tensor:
    return direction * (torch.rand(direction.shape, generator=torch.Generator().manual_seed(seed)) < 0.05)


one, two, common = directions(3)
CASES = {
    "hardly meet": ([one, two], ("tsv_m", "task_arithmetic", "swudi"), "they hardly meet"),
    "a part": ([0.3 * common + one, 0.3 * common + two], ("linear", "ties", "svc"), "some have a part in common"),
    "same way": ([common + 0.5 * one, common + 0.5 * two], ("task_arithmetic", "svc"), "they pull the same way"),
    "against": ([common + 0.5 * one, -common + 0.5 * two], ("ties", "task_arithmetic"), "against each other"),
    "few elements": ([few(one, 2), few(two, 3)], ("ram", "task_arithmetic"), "each changed few elements"),
    "uneven": ([one, 9 * two], ("tsv_m", "task_arithmetic", "swudi"), " times as far as another"),
}


def save(folder: Path, changes: list[torch.Tensor]) -> list[Path]:
    base = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    paths = []
    for number, change in enumerate([torch.zeros(ROWS, COLUMNS), *changes]):
        paths.append(folder / f"{number}.safetensors")
        save_file({"up.weight": base + 0.01 * change}, paths[-1])
    return paths


@pytest.mark.parametrize("name", CASES)
def test_a_family_is_suggested_for_what_was_measured(name: str, tmp_path: Path) -> None:
    changes, methods, why = CASES[name]
    base, *others = [open_model(str(path), state_dicts=True) for path in save(tmp_path, changes)]
    suggestion = suggest(measure_movement(base, others))
    assert suggestion is not None and suggestion.methods == methods and why in str(suggestion)


def test_nothing_is_suggested_for_one_fine_tune(tmp_path: Path) -> None:
    base, *others = [open_model(str(path), state_dicts=True) for path in save(tmp_path, [one, torch.zeros_like(one)])]
    movement = measure_movement(base, others)
    assert movement.changed[1] == 0 and suggest(movement) is None


def test_inspect_says_it(models: Path) -> None:
    done = weightsmith_process("inspect", "--stats", *(models / name for name in ("base", "a", "b")))
    assert done.returncode == 0 and "to try first: tsv_m" in " ".join(done.stdout.split()), done.stderr
