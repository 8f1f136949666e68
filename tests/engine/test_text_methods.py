"""Methods that read text, against dense float64 references on whole transformers models."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

import weightsmith as ws
from tests.conftest import weightsmith_process
from tests.tiny_tokenizer import TEXT, save_tokenizer
from weightsmith.errors import MergeError, OutputError, RecipeError

VOCABULARY = 384
SHAPE = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
LLAMA_LIKE = SHAPE | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
FAMILIES = {
    "LlamaForCausalLM": LLAMA_LIKE | {"tie_word_embeddings": True},
    "Gemma3ForCausalLM": LLAMA_LIKE | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "GPT2LMHeadModel": {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "Phi3ForCausalLM": LLAMA_LIKE | {"pad_token_id": 0},
    "OPTForCausalLM": LLAMA_LIKE | {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
FAMILIES["Gemma3ForCausalLM"]["num_hidden_layers"] = 4


def save_family(root: Path, architecture: str, names: str = "ab") -> None:
    """`base` and fine-tunes of it with noise on top, all with a tokenizer; `math.txt` and `law.txt`."""
    import transformers

    architecture_class = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = architecture_class(architecture_class.config_class(**FAMILIES[architecture])).float()
    clean = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for number, name in enumerate(["base", *names]):
        generator = torch.Generator().manual_seed(number)
        for key, parameter in model.named_parameters():
            noise = 0.05 * torch.randn(parameter.shape, generator=generator) if number else 0.0
            parameter.data.copy_(clean[key] + noise)
        model.save_pretrained(root / name)
        save_tokenizer(root / name, VOCABULARY)
    (root / "math.txt").write_text("".join(f"{n} plus {n + 1} is {2 * n + 1}. " for n in range(200)), encoding="utf-8")
    (root / "law.txt").write_text(TEXT[:4000], encoding="utf-8")


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("llamas")
    save_family(root, "LlamaForCausalLM")
    return root


def recipe(root: Path, method: str, **parameters: object) -> dict:
    models = [
        {"model": str(root / name), "parameters": {"text": str(root / text)}}
        for name, text in (("a", "math.txt"), ("b", "law.txt"))
    ]
    shared = {"samples": 3, "context": 24} | parameters
    return {
        "merge_method": method,
        "base_model": str(root / "base"),
        "models": models,
        "parameters": shared,
        "dtype": "float32",
    }


def windows(root: Path, text: str, samples: int = 3, context: int = 24) -> list[torch.Tensor]:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(root / "base")((root / text).read_text())["input_ids"]
    whole = [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]
    return [torch.tensor([whole[len(whole) * n // samples]]) for n in range(samples)]


def load(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def inputs_of(model: nn.Module, texts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Linear layer -> float64 [tokens, inputs], from ordinary runs of the whole model."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):

            def note(module: nn.Module, inputs: tuple, name: str = name) -> None:
                found.setdefault(f"{name}.weight", []).append(inputs[0].reshape(-1, inputs[0].shape[-1]).double())

            module.register_forward_pre_hook(note)
    with torch.inference_mode():
        for window in texts:
            model(input_ids=window, use_cache=False)
    return {name: torch.cat(parts) for name, parts in found.items()}


def regmean(weights: list[torch.Tensor], inputs: list[torch.Tensor], reduction: float) -> torch.Tensor:
    """W^T = (sum G~)^-1 sum G~ W^T, weights [outputs, inputs]."""
    grams = [x.T @ x / len(x) for x in inputs]
    grams = [reduction * g + (1 - reduction) * torch.diag(g.diagonal()) for g in grams]
    above = sum(g @ w.double().T for g, w in zip(grams, weights, strict=True))
    return torch.linalg.solve(sum(grams), above).T


@pytest.mark.parametrize("architecture", FAMILIES)
def test_regmean_solves_the_least_squares_problem(architecture: str, tmp_path: Path) -> None:
    save_family(tmp_path, architecture)
    merged = ws.merge(recipe(tmp_path, "regmean", reduction=0.7))
    models = {name: load(tmp_path / name) for name in "ab"}
    inputs = [
        inputs_of(models["a"], windows(tmp_path, "math.txt")),
        inputs_of(models["b"], windows(tmp_path, "law.txt")),
    ]
    states = [dict(model.named_parameters()) for model in models.values()]
    base = dict(load(tmp_path / "base").named_parameters())
    matrices = 0
    for name, tensor in merged.items():
        weights = [state[name].detach() for state in states]
        if "layers." in name or ".h." in name:
            if name in inputs[0]:
                conv = architecture.startswith("GPT2")
                expected = regmean([w.T if conv else w for w in weights], [x[name] for x in inputs], 0.7)
                torch.testing.assert_close(tensor, (expected.T if conv else expected).float(), atol=2e-5, rtol=0)
                matrices += 1
            else:
                torch.testing.assert_close(tensor, sum(weights) / 2, atol=1e-6, rtol=0)
        elif "embed" in name or "wte" in name or "lm_head" in name:
            torch.testing.assert_close(tensor, base[name].detach(), atol=0, rtol=0)
    assert matrices >= 8


def test_one_expert_gives_itself_and_one_text_the_mean(llamas: Path) -> None:
    alone = recipe(llamas, "regmean", embeddings="mean")
    alone["models"] = alone["models"][:1]
    expert = load_file(llamas / "a" / "model.safetensors")
    for name, tensor in ws.merge(alone).items():
        torch.testing.assert_close(tensor, expert[name], atol=2e-6, rtol=0)


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_equal_models_are_left_as_they_are(method: str, llamas: Path, tmp_path: Path) -> None:
    equal = recipe(llamas, method)
    copied = tmp_path / "copy"
    shutil.copytree(llamas / "a", copied)
    equal["models"][1]["model"] = str(copied)
    if method == "regmean":
        equal["parameters"]["embeddings"] = "mean"
    expert = load_file(llamas / "a" / "model.safetensors")
    for name, tensor in ws.merge(equal).items():
        torch.testing.assert_close(tensor, expert[name], atol=2e-6, rtol=0)


def test_regmean_plusplus_reads_what_the_merged_layers_give(llamas: Path) -> None:
    """The reference runs whole models: the layers before are those of the result, the layer itself an expert's."""
    merged = ws.merge(recipe(llamas, "regmean_plusplus", reduction=0.7))
    result, experts = load(llamas / "base"), [load(llamas / name) for name in "ab"]
    texts = [windows(llamas, "math.txt"), windows(llamas, "law.txt")]
    places = dict(result.named_parameters())
    for name, tensor in merged.items():
        if name in places and ".layers." not in name:
            places[name].data.copy_(tensor)
    for layer in range(3):
        prefix = f"model.layers.{layer}."
        inputs = []
        for expert, text in zip(experts, texts, strict=True):
            own = dict(expert.named_parameters())
            for name, parameter in result.named_parameters():
                if name.startswith(prefix):
                    parameter.data.copy_(own[name])
            for module in result.modules():
                module._forward_pre_hooks.clear()
            inputs.append(inputs_of(result, text))
        for name in [name for name in merged if name.startswith(prefix)]:
            if name in inputs[0]:
                weights = [dict(expert.named_parameters())[name].detach() for expert in experts]
                expected = regmean(weights, [x[name] for x in inputs], 0.7)
                torch.testing.assert_close(merged[name], expected.float(), atol=5e-5, rtol=0)
            places[name].data.copy_(merged[name])


def test_fisher_weighs_by_squared_gradients(llamas: Path) -> None:
    """The reference takes gradients through whole models, of tokens drawn with the same random numbers."""
    merged = ws.merge(recipe(llamas, "fisher", floor=0.0))
    fishers, states = [], []
    for name, text in (("a", "math.txt"), ("b", "law.txt")):
        model = load(llamas / name)
        squares = {key: torch.zeros_like(p, dtype=torch.float64) for key, p in model.named_parameters()}
        for number, window in enumerate(windows(llamas, text)):
            log_p = model(input_ids=window, use_cache=False).logits[0].log_softmax(-1)
            drawn = torch.multinomial(log_p.detach().exp(), 1, generator=torch.Generator().manual_seed(number))
            model.zero_grad()
            log_p.gather(1, drawn).sum().backward()
            for key, parameter in model.named_parameters():
                squares[key] += parameter.grad.double() ** 2
        fishers.append(squares)
        states.append({key: p.detach() for key, p in model.named_parameters()})
    for name, tensor in merged.items():
        weights = [state[name].double() for state in states]
        if ".layers." in name:
            total = sum(fisher[name] for fisher in fishers)
            expected = sum(f[name] * w for f, w in zip(fishers, weights, strict=True)) / total
            sure = total > 1e-9 * total.max()
            torch.testing.assert_close(tensor[sure], expected[sure].float(), atol=1e-4, rtol=0)
        else:
            torch.testing.assert_close(tensor, (sum(weights) / 2).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["regmean", "regmean_plusplus", "fisher"])
def test_the_bytes_do_not_depend_on_the_threads(method: str, tmp_path: Path) -> None:
    save_family(tmp_path, "LlamaForCausalLM")
    (tmp_path / "recipe.yml").write_text(ws.Recipe.from_dict(recipe(tmp_path, method)).file.text)
    merged = []
    for threads in (1, 3):
        ws.merge(tmp_path / "recipe.yml", tmp_path / f"out-{threads}", threads=threads)
        merged.append((tmp_path / f"out-{threads}" / "model.safetensors").read_bytes())
        for folder in tmp_path.glob("*.statistics"):
            folder.rename(folder.with_name(f"{folder.name}-{threads}"))  # collected again
    assert merged[0] == merged[1]


def test_statistics_are_collected_once_and_again_for_another_text(tmp_path: Path) -> None:
    save_family(tmp_path, "LlamaForCausalLM")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def stages_of(**parameters: object) -> list[str]:
        stages: list[str] = []
        ws.merge(recipe(tmp_path, "regmean", **parameters), on_progress=lambda p: stages.append(p.stage))
        return sorted({stage for stage in stages if stage.startswith("reading")})

    both = [f"reading law.txt with {tmp_path / 'b'}", f"reading math.txt with {tmp_path / 'a'}"]
    assert stages_of() == both
    assert stages_of(reduction=0.2) == []
    assert stages_of(samples=2) == both
    (tmp_path / "law.txt").write_text(TEXT[4000:8000], encoding="utf-8")
    assert stages_of() == both[:1]
    changed = {path for path in before if path.read_bytes() != before[path]}
    assert changed == {tmp_path / "law.txt"}
    assert not list(tmp_path.glob("*.statistics/.*"))


def test_a_model_that_cannot_be_written_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_family(tmp_path / "models", "LlamaForCausalLM")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    ws.merge(recipe(tmp_path / "models", "regmean"))
    assert len(list((tmp_path / "cache/weightsmith/statistics").iterdir())) == 2
    assert not list((tmp_path / "models").glob("*.statistics"))


def test_random_tokens_need_no_text(llamas: Path) -> None:
    content = recipe(llamas, "regmean", text="random")
    for entry in content["models"]:
        entry["parameters"] = {}
    first, again, other = ws.merge(content), ws.merge(content), ws.merge(content, seed=1)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "nowhere.txt"}, r"recipe: nowhere\.txt: there is no such file, here or beside the recipe"),
        (
            {"text": [1, 2]},
            "text of regmean is one value for the whole model: it stands in .* at the top or at a model",
        ),
        ({"text": 3}, "text is 3: expected a text"),
        ({"samples": 0}, "samples is 0: must be at least 1"),
        ({"context": [8, 16]}, "context of regmean is one value for the whole model"),
    ],
)
def test_what_is_refused(change: dict, message: str, llamas: Path) -> None:
    content = recipe(llamas, "regmean", **change)
    for entry in content["models"]:
        entry["parameters"] = {}
    with pytest.raises(RecipeError, match=message):
        ws.merge(content)


def test_a_text_is_required_and_not_empty(llamas: Path, tmp_path: Path) -> None:
    content = recipe(llamas, "fisher")
    content["models"][1]["parameters"] = {}
    with pytest.raises(RecipeError, match=r"the parameter 'text' of fisher has no value for .*b "):
        ws.merge(content)
    (tmp_path / "empty.txt").write_text("")
    content["models"][1]["parameters"] = {"text": str(tmp_path / "empty.txt")}
    with pytest.raises(MergeError, match=r"empty\.txt: it holds 0 tokens"):
        ws.merge(content)
    assert not list(llamas.glob("b.statistics/.*"))
    assert all(any(folder.iterdir()) for folder in llamas.glob("*.statistics"))


def test_files_of_weights_alone_cannot_read(llamas: Path) -> None:
    content = recipe(llamas, "regmean")
    content["base_model"] = str(llamas / "base" / "model.safetensors")
    content["models"] = [
        {"model": str(llamas / "a" / "model.safetensors"), "parameters": {"text": "random"}},
    ]
    with pytest.raises(RecipeError, match=r"regmean has each model read a text, and .* is a file of weights without"):
        ws.merge(content)


def test_merged_layers_need_models_of_one_depth(llamas: Path) -> None:
    content = recipe(llamas, "regmean_plusplus", text="random")
    sources = [{"model": str(llamas / name), "layer_range": [1, 3]} for name in ("base", "a")]
    content["slices"] = [{"sources": sources}]
    del content["models"]
    with pytest.raises(MergeError, match="regmean_plusplus runs merged layers on each other's outputs"):
        ws.merge(content)
    content["merge_method"] = "regmean"
    assert "model.layers.1.mlp.up_proj.weight" in ws.merge(content)


def test_on_the_command_line(llamas: Path, tmp_path: Path) -> None:
    text = ws.Recipe.from_dict(recipe(llamas, "fisher")).file.text
    (tmp_path / "recipe.yml").write_text(text)
    done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    done = weightsmith_process("merge", tmp_path / "recipe.yml", tmp_path / "dry", "--dry-run")
    assert done.returncode == 0 and "text" in done.stdout


def test_experts_get_the_mean(tmp_path: Path) -> None:
    FAMILIES["Qwen3MoeForCausalLM"] = LLAMA_LIKE | {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1,
    }  # fmt: skip
    try:
        save_family(tmp_path, "Qwen3MoeForCausalLM")
    finally:
        del FAMILIES["Qwen3MoeForCausalLM"]
    merged = ws.merge(recipe(tmp_path, "regmean", reduction=0.7))
    experts = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    solved = 0
    for name, tensor in merged.items():
        mean = sum(expert[name] for expert in experts) / 2
        if "experts." in name:
            torch.testing.assert_close(tensor, mean, atol=1e-6, rtol=0)
        elif "_proj" in name:
            solved += not torch.allclose(tensor, mean, atol=1e-4)
    assert solved == 4 * 3
    with pytest.raises(MergeError, match=r"which its files hold in another form .*; take regmean"):
        ws.merge(recipe(tmp_path, "regmean_plusplus"))


@pytest.mark.parametrize("damage", ["about", "shape"])
def test_damaged_statistics_are_refused(damage: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from weightsmith.engine.text_statistics.stored_statistics import opened
    from weightsmith.errors import WeightsmithError

    save_family(tmp_path, "LlamaForCausalLM")
    ws.merge(recipe(tmp_path, "regmean"))
    (folder,) = (tmp_path / "a.statistics").iterdir()
    if damage == "about":
        (folder / "statistics.json").write_text('{"same": [], "means": {}}')
    else:
        grams = load_file(folder / "00000.safetensors")
        save_file({name: gram[:3, :3].contiguous() for name, gram in grams.items()}, folder / "00000.safetensors")
    opened.cache_clear()
    with pytest.raises(WeightsmithError, match="is damaged; remove" if damage == "about" else "3 inputs"):
        ws.merge(recipe(tmp_path, "regmean", reduction=0.3))


def test_another_text_is_another_merge(tmp_path: Path) -> None:
    save_family(tmp_path, "LlamaForCausalLM")
    first = ws.merge(recipe(tmp_path, "regmean"), tmp_path / "out")
    assert not first.done_already and ws.merge(recipe(tmp_path, "regmean"), tmp_path / "out").done_already
    (tmp_path / "law.txt").write_text(TEXT[4000:8000], encoding="utf-8")
    with pytest.raises(OutputError):
        ws.merge(recipe(tmp_path, "regmean"), tmp_path / "out")
    assert not ws.merge(recipe(tmp_path, "regmean"), tmp_path / "out", force=True).done_already
