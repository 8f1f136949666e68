"""Weights by layer, against scores from ordinary gradients of a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import weightsmith as ws
from tests.conftest import weightsmith_process
from tests.engine.test_text_methods import VOCABULARY, load, save_family
from weightsmith.engine.text_statistics.token_windows import random_windows
from weightsmith.errors import RecipeError


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("llamas")
    save_family(root, "LlamaForCausalLM")
    return root


def recipe(root: Path, **more: object) -> dict:
    models = [
        {"model": str(root / "a"), "parameters": {"weight": 0.6, "density": 0.5}},
        {"model": str(root / "b"), "parameters": {"weight": [0.2, 0.4]}},
    ]
    return {"merge_method": "ties", "base_model": str(root / "base"), "models": models, "dtype": "float32", **more}


def of_layers(entry: Any) -> list[float]:
    return entry.parameters["weight"][0]["value"]


def test_layers_to_which_predictions_are_sensitive_get_less(llamas: Path) -> None:
    weighed = ws.weigh(recipe(llamas), samples=4, context=16, strength=0.7)
    base = load(llamas / "base")
    squares = {key: torch.zeros_like(p, dtype=torch.float64) for key, p in base.named_parameters()}
    for number, window in enumerate(random_windows(VOCABULARY, 4, 16, seed=0)):
        log_p = base(input_ids=torch.from_numpy(window)[None], use_cache=False).logits[0].log_softmax(-1)
        drawn = torch.multinomial(log_p.detach().exp(), 1, generator=torch.Generator().manual_seed(number))
        base.zero_grad()
        log_p.gather(1, drawn).sum().backward()
        for key, parameter in base.named_parameters():
            squares[key] += parameter.grad.double() ** 2 / 64
    states = {name: dict(load(llamas / name).named_parameters()) for name in "ab"}
    before = {"a": [0.6] * 3, "b": [0.2, 0.3, 0.4]}
    for entry, name in zip(weighed.schema.models, "ab", strict=True):
        scores = []
        for layer in range(3):
            keys = [key for key in squares if key.startswith(f"model.layers.{layer}.")]
            mean = sum(float(squares[k].sum()) for k in keys) / sum(squares[k].numel() for k in keys)
            own, theirs = states[name], dict(base.named_parameters())
            lengths = [float((own[k] - theirs[k]).detach().double().square().sum()) for k in keys]
            scores.append(mean * sum(lengths))
        z = (np.log(scores) - np.log(scores).mean()) / np.log(scores).std()
        expected = np.array(before[name]) * 2 / (1 + np.exp(0.7 * z))
        assert np.allclose(of_layers(entry), expected, rtol=2e-3)
    assert weighed.schema.models[0].parameters["density"] == 0.5
    plan = ws.plan(weighed)
    for tensor in plan.tensors:
        for layer in range(3):
            if tensor.name.startswith(f"model.layers.{layer}."):
                weights = [values["weight"] for values in tensor.settings.per_input if "weight" in values]
                written = [of_layers(entry)[layer] for entry in weighed.schema.models]
                assert np.allclose(sorted(weights), sorted(written))
        if not tensor.name.startswith("model.layers."):
            unweighed = next(other for other in ws.plan(recipe(llamas)).tensors if other.name == tensor.name)
            assert tensor.settings.per_input == unweighed.settings.per_input


def test_no_strength_leaves_the_weights(llamas: Path) -> None:
    weighed = ws.weigh(recipe(llamas), samples=1, context=8, strength=0.0)
    assert [of_layers(entry) for entry in weighed.schema.models] == [[0.6] * 3, [0.2, 0.3, 0.4]]
    again = ws.weigh(weighed, samples=1, context=8, strength=0.0)
    assert [e.parameters for e in again.schema.models] == [e.parameters for e in weighed.schema.models]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_method": "model_stock"}, "model_stock has no weights on task vectors of a base model"),
        (
            {"parameters": {"weight": [{"filter": "mlp", "value": 0.1}, {"value": 1}]}},
            r"a has weights that differ within a layer \(0\.1, 1\)",
        ),
    ],
)
def test_what_is_refused(change: dict, message: str, llamas: Path) -> None:
    content = recipe(llamas, **change)
    for entry in content["models"]:
        entry["parameters"] = {}
    with pytest.raises(RecipeError, match=message):
        ws.weigh(content, samples=1, context=8)


def test_slices_are_refused(llamas: Path) -> None:
    content = recipe(llamas)
    sources = [{"model": entry["model"], "layer_range": [0, 3]} for entry in content.pop("models")]
    content |= {"slices": [{"sources": sources}], "parameters": {"weight": 1}}
    with pytest.raises(RecipeError, match="weights for each layer are written for recipes with `models`"):
        ws.weigh(content)


def test_on_the_command_line(llamas: Path, tmp_path: Path) -> None:
    (tmp_path / "ties.yml").write_text(yaml.safe_dump(recipe(llamas)))
    command = ("weigh", tmp_path / "ties.yml", tmp_path / "weighed.yml", "--samples", "2", "--context", "8")
    done = weightsmith_process(*command)
    assert done.returncode == 0, done.stderr
    assert f"{llamas / 'a'}: weight 0." in done.stdout and "over 3 layers" in done.stdout
    inside, elsewhere = yaml.safe_load((tmp_path / "weighed.yml").read_text())["models"][0]["parameters"]["weight"]
    assert inside["filter"] == "model.layers." and len(inside["value"]) == 3 and elsewhere == {"value": 0.6}
    assert weightsmith_process("merge", tmp_path / "weighed.yml", tmp_path / "out").returncode == 0
    done = weightsmith_process(*command)
    assert done.returncode == 2 and "weighed.yml: exists; choose another name, or --force" in done.stderr
