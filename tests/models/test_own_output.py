"""Output matrices: tied to the embedding, of their own, or said to be tied and not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import weightsmith as ws
from tests.conftest import weightsmith_process
from weightsmith.models.parts.embeddings import _TIED_BY_DEFAULT

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def save_variant(source: Path, folder: Path, *, tied: bool | None, output: torch.Tensor | None) -> Path:
    """`source` with the output matrix `output` (None: none is stored) and that flag (None: no flag)."""
    weights = load_file(source / "model.safetensors")
    weights.pop(OUTPUT, None)
    if output is not None:
        weights[OUTPUT] = output.clone()
    config = json.loads((source / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config if tied is None else config | {"tie_word_embeddings": tied}))
    return folder


@pytest.fixture
def variants(models: Path, tmp_path: Path) -> Path:
    """`tied`, `untied`, `stores both` (equal), and `lies`: flagged as tied, with an output matrix of its own."""
    own = load_file(models / "b/model.safetensors")[OUTPUT]
    twin = load_file(models / "a/model.safetensors")[EMBEDDING]
    save_variant(models / "a", tmp_path / "tied", tied=True, output=None)
    save_variant(models / "b", tmp_path / "untied", tied=False, output=own)
    save_variant(models / "a", tmp_path / "stores-both", tied=True, output=twin)
    save_variant(models / "b", tmp_path / "lies", tied=True, output=own)
    return tmp_path


def linear(folder: Path, *names: str) -> Path:
    entries = [{"model": str(folder / name), "parameters": {"weight": 0.5}} for name in names]
    (folder / "r.yml").write_text(yaml.safe_dump({"merge_method": "linear", "models": entries}))
    return folder / "r.yml"


PAIRS = [
    ("tied", "untied"),
    ("tied", "lies"),
    *(pytest.param(pair, marks=pytest.mark.more) for pair in (("untied", "tied"), ("lies", "stores-both"))),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_if_one_is_untied_the_result_is(pair: tuple[str, str], variants: Path) -> None:
    process = weightsmith_process("merge", linear(variants, *pair), variants / "out")
    assert process.returncode == 0, process.stderr
    merged = load_file(variants / "out/model.safetensors")
    stored = [load_file(variants / name / "model.safetensors") for name in pair]
    matrices = [weights.get(OUTPUT, weights[EMBEDDING]) for weights in stored]
    assert torch.equal(merged[OUTPUT], (matrices[0] + matrices[1]) / 2)
    assert json.loads((variants / "out/config.json").read_text())["tie_word_embeddings"] is False
    if pair[0] == "tied":
        assert "has an output matrix of its own" in process.stderr


def test_the_embedding_stored_twice_is_one_matrix(variants: Path) -> None:
    plan = ws.plan(linear(variants, "stores-both", "tied"))
    assert OUTPUT not in {tensor.name for tensor in plan.tensors}
    assert plan.config["tie_word_embeddings"] is True
    assert OUTPUT in ws.open_model(str(variants / "stores-both")).left_out


def test_a_flag_that_the_weights_contradict_is_named(variants: Path) -> None:
    model = ws.open_model(str(variants / "lies"))
    assert "they differ: read as untied" in (model.conversion or "")
    shown = weightsmith_process("inspect", variants / "tied", variants / "lies")
    assert "separate output matrix" in shown.stdout
    assert "the result has its own, too" in shown.stdout.replace("\n", " ")


def test_vocabularies_can_be_united_when_only_the_fine_tune_is_untied(variants: Path) -> None:
    from tests.tiny_tokenizer import save_tokenizer

    for name in ("tied", "untied"):
        save_tokenizer(variants / name, 128)
    recipe = yaml.safe_load(linear(variants, "tied", "untied").read_text()) | {"tokenizer_source": "union"}
    (variants / "r.yml").write_text(yaml.safe_dump(recipe))
    merged = ws.merge(variants / "r.yml")
    tied, untied = (load_file(variants / name / "model.safetensors") for name in ("tied", "untied"))
    rows = len(merged[OUTPUT])
    torch.testing.assert_close(merged[OUTPUT], (tied[EMBEDDING][:rows] + untied[OUTPUT][:rows]) / 2)


def test_every_family_of_the_fallback_is_tied_by_default_in_transformers() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    assert all(CONFIG_MAPPING[model_type]().tie_word_embeddings for model_type in _TIED_BY_DEFAULT - {"mpt"})


def test_what_config_json_does_not_say_is_the_class_default(models: Path, tmp_path: Path) -> None:
    """Cohere ties where nothing is said, Llama does not."""
    from weightsmith.models.parts.embeddings import is_tied

    assert is_tied({"model_type": "cohere"})
    assert is_tied({"model_type": "lfm2"})
    assert not is_tied({"model_type": "llama"})
    assert not is_tied({"model_type": "cohere", "tie_word_embeddings": False})
