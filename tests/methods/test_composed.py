"""Methods that have another one as their rule: dense references in float64, written from the formulas."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

import weightsmith as ws
from tests.conftest import weightsmith_process
from tests.methods.test_matrices import close, experts, merged, svc, tsv_m
from weightsmith.engine.tensor_scan import TensorScan
from weightsmith.errors import RecipeError
from weightsmith.methods.composed.rules import RULES
from weightsmith.methods.tensor_settings import MatrixLayout


def adapters(rows: int, columns: int, ranks: list[int], seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(rows, rank, generator=generator, dtype=torch.float64),
            torch.randn(rank, columns, generator=generator, dtype=torch.float64),
        )
        for rank in ranks
    ]


def thin_svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vh.T


def ties(deltas: torch.Tensor) -> torch.Tensor:
    deltas = deltas * (deltas.abs() > 1e-9 * deltas.abs().max())  # rounding has no vote
    agree = deltas.sign() == torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    return (deltas * agree).sum(0) / agree.sum(0).clamp(min=1)


def polar_of_rank(matrix: torch.Tensor) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ torch.diag((s > 1e-9 * s[0]).double()) @ vh


def tsv_m_of_ranks(deltas: torch.Tensor) -> torch.Tensor:
    """TSV-M without directions that a model does not have, for which an SVD invents some."""
    kept = min(deltas.shape[1:]) // len(deltas)
    parts = []
    for delta in deltas:
        u, s, v = (part[..., :kept] for part in thin_svd(delta))
        there = s > 1e-9 * s[:1]
        parts.append((u * there, s * there, v * there))
    u, s, v = (torch.cat([part[i] for part in parts], -1) for i in range(3))
    return polar_of_rank(u) @ torch.diag(s) @ polar_of_rank(v).T


def core_space(factors: list[tuple[torch.Tensor, torch.Tensor]], rule) -> torch.Tensor:
    u = torch.linalg.svd(torch.cat([b for b, _ in factors], 1), full_matrices=False)[0]
    vh = torch.linalg.svd(torch.cat([a for _, a in factors]), full_matrices=False)[2]
    return u @ rule(torch.stack([u.T @ b @ a @ vh.T for b, a in factors])) @ vh


@pytest.mark.parametrize("ranks", [[3, 3], [2, 4, 1]], ids=str)
def test_core_space_is_the_dense_formula(ranks: list[int]) -> None:
    factors = adapters(24, 16, ranks)
    deltas = torch.stack([b @ a for b, a in factors])
    close(merged("core_space", deltas, rule="tsv_m"), core_space(factors, tsv_m_of_ranks), 1e-3)
    found = [
        (u[:, :rank] * s[:rank], v[:, :rank].T) for rank, (u, s, v) in zip(ranks, map(thin_svd, deltas), strict=True)
    ]
    close(merged("core_space", deltas, rule="ties"), core_space(found, ties), 1e-3)


def test_task_arithmetic_in_core_space_is_task_arithmetic() -> None:
    deltas = torch.stack([b @ a for b, a in adapters(24, 16, [3, 2, 4])])
    close(merged("core_space", deltas, rule="task_arithmetic", own={"weight": 0.3}), 0.3 * deltas.sum(0), 1e-4)


def test_tsv_m_in_core_space_is_another_method() -> None:
    deltas = torch.stack([b @ a for b, a in adapters(24, 16, [6, 1, 2])])
    inside, outside = merged("core_space", deltas), merged("tsv_m", deltas)
    assert float((inside - outside).norm() / outside.norm()) > 0.05


def cayley(matrix: torch.Tensor) -> torch.Tensor:
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    return torch.linalg.solve(identity + matrix, identity - matrix)  # its own inverse, but for a sign


def ortho_merge(base: torch.Tensor, deltas: torch.Tensor, rule, *, conflicts: bool) -> torch.Tensor:
    """The merged weight."""
    skews, rests = [], []
    for delta in deltas:
        against = torch.cosine_similarity(delta, deltas.mean(0), dim=1) < 0
        target = base + delta * (against.unsqueeze(1) if conflicts else 1)
        u, _, vh = torch.linalg.svd(base.T @ target)
        skews.append(-cayley(u @ vh))
        rests.append(base + delta - base @ u @ vh)
    total = torch.stack(skews).sum(0)
    length = torch.stack([skew.norm() for skew in skews]).mean()
    turned = cayley(-total * (length / total.norm())) if total.norm() > 0 else torch.eye(base.shape[1])
    assert torch.allclose(turned.T @ turned, torch.eye(base.shape[1], dtype=base.dtype), atol=1e-10)
    return base @ turned + rule(torch.stack(rests))


def run_with_base(name: str, base: torch.Tensor, deltas: torch.Tensor, **shared) -> torch.Tensor:
    from tests.methods.scan_of import WholeTensors, run, settings_of
    from weightsmith.methods.tensor_settings import Settings

    whole = torch.stack([base, *(base + delta for delta in deltas)]).float()
    filled = settings_of(name, 0, [{}] * len(whole), **shared)
    settings = Settings(filled.shared, filled.per_input, 0, "matrix")
    columns = base.shape[1]
    scan = WholeTensors(whole.reshape(len(whole), -1), columns, 5 * columns)
    return run(name, scan, settings, "combine").view(base.shape).double()


@pytest.mark.parametrize("rotate", ["conflicts", "all"])
@pytest.mark.parametrize("rule", ["task_arithmetic", "tsv_m"])
def test_ortho_merge_is_the_dense_formula(rule: str, rotate: str) -> None:
    base = torch.randn(24, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    deltas = 0.1 * experts(24, 16, 3)
    ours = run_with_base("ortho_merge", base, deltas, rule=rule, rotate=rotate)
    dense_rule = {"task_arithmetic": lambda rests: rests.sum(0), "tsv_m": tsv_m}[rule]
    expected = ortho_merge(base, deltas, dense_rule, conflicts=rotate == "conflicts")
    close(ours - base, expected - base, 2e-4)


@pytest.mark.parametrize("shape", [(24, 16), (10, 16)], ids=str)
@pytest.mark.parametrize("rotate", ["conflicts", "all"])
def test_one_model_of_ortho_merge_gives_itself(rotate: str, shape: tuple[int, int]) -> None:
    """Also where the base has fewer rows than columns."""
    base = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    deltas = 0.1 * experts(*shape, 1)
    close(run_with_base("ortho_merge", base, deltas, rotate=rotate) - base, deltas[0], 2e-4)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_svc_calibrates_what_any_rule_makes(rule: str) -> None:
    deltas = experts(24, 16, 3)
    own = {"weight": 1.0}
    shared = {"normalize": False} if rule == "ties" else {}
    plain = merged(rule, deltas, own=own, **shared)
    calibrated = merged("svc", deltas, rule=rule, own=own, **shared)
    u, s, vh = torch.linalg.svd(plain, full_matrices=False)
    factors = []
    for r in range(len(s)):
        along = u[:, r] @ plain
        shares = [float(along @ (u[:, r] @ d)) / max(float((u[:, r] @ d).square().sum()), 1e-12) for d in deltas]
        factors.append(len(deltas) / sum(max(share, 0.1) for share in shares))
    if rule not in ("iso_c", "iso_cts"):  # whose singular vectors are anyone's choice
        close(calibrated, u @ torch.diag(s * torch.tensor(factors, dtype=s.dtype)) @ vh, 2e-3)
    assert calibrated.isfinite().all()


def test_svc_of_one_expert_changes_nothing() -> None:
    (only,) = experts(24, 16, 1)
    close(merged("svc", only.unsqueeze(0), rule="task_arithmetic", alpha=1.0), only, 2e-4)
    close(merged("svc", torch.stack([only] * 3)), svc(torch.stack([only] * 3)), 2e-4)


@pytest.fixture(scope="module")
def lora_models(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, and the adapters `one` (rank 4), `two` (rank 2) and `three` (rank 3, of attention alone) by peft."""
    root = tmp_path_factory.mktemp("lora")
    (root / "base").symlink_to(models / "base")
    both = ["q_proj", "v_proj", "down_proj"]
    for seed, (name, rank, modules) in enumerate([("one", 4, both), ("two", 2, both), ("three", 3, ["q_proj"])]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, init_lora_weights=False)
        tuned = peft.get_peft_model(LlamaForCausalLM.from_pretrained(models / "base"), config)
        tuned.save_pretrained(str(root / name))
    return root


def lora_recipe(root: Path, method: str, **parameters) -> dict:
    return {
        "merge_method": method,
        "base_model": str(root / "base"),
        "models": [{"model": f"{root / 'base'}+{root / name}"} for name in ("one", "two", "three")],
        "parameters": parameters,
        "dtype": "float32",
    }


def merged_from_whole_models(recipe: dict, folder: Path) -> dict[str, torch.Tensor]:
    """What the recipe gives of its adapters after each was written as a model."""
    for entry, name in zip(recipe["models"], ("one", "two", "three"), strict=True):
        ws.merge({"merge_method": "passthrough", "models": [entry], "dtype": "float32"}, folder / name)
        entry["model"] = str(folder / name)
    return ws.merge(recipe)


def factors_of(root: Path, adapter: str, module: str) -> tuple[torch.Tensor, torch.Tensor]:
    stored = {name: value.double() for name, value in load_file(root / adapter / "adapter_model.safetensors").items()}
    config = json.loads((root / adapter / "adapter_config.json").read_text())
    side = {s: stored.get(f"base_model.model.{module}.lora_{s}.weight") for s in "AB"}
    if side["A"] is None or side["B"] is None:
        return torch.zeros(64, 0, dtype=torch.float64), torch.zeros(0, 64, dtype=torch.float64)
    return side["B"] * (config["lora_alpha"] / config["r"]), side["A"]


@pytest.mark.parametrize("rule", ["tsv_m", "ties"])
def test_adapters_are_merged_in_their_own_space(rule: str, lora_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the adapters' matrices, also where one of them leaves a weight alone."""
    asked: list[bool] = []
    known = TensorScan.low_rank

    def low_rank(self: TensorScan, number: int):
        found = known(self, number)
        asked.append(found is not None)
        return found

    monkeypatch.setattr(TensorScan, "low_rank", low_rank)
    tensors = ws.merge(lora_recipe(lora_models, "core_space", rule=rule))
    assert asked and all(asked)
    base = load_file(lora_models / "base" / "model.safetensors")
    module = "model.layers.1.self_attn.q_proj"
    factors = [factors_of(lora_models, name, module) for name in ("one", "two", "three")]
    expected = core_space(factors, {"tsv_m": tsv_m_of_ranks, "ties": ties}[rule])
    close(tensors[f"{module}.weight"].double() - base[f"{module}.weight"].double(), expected, 1e-3)
    untouched = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(tensors[untouched], base[untouched])


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        *((name, {}) for name in ("core_space", "tsv_m", "iso_c", "iso_cts", "swudi", "aswudi", "actmat", "knots")),
        *(("svc", {"rule": rule}) for rule in ("task_arithmetic", "tsv_m", "swudi")),
        ("aswudi", {"rank": "participation"}),
        ("swudi", {"rank_ratio": 0.05, "start": "sum"}),
        ("iso_cts", {"common_space_fraction": 0.1}),
    ],
    ids=str,
)
def test_merged_adapters_are_the_same_from_whole_models(
    method: str, parameters: dict, lora_models: Path, tmp_path: Path
) -> None:
    """Adapters are merged from their matrices, whole models are not."""
    recipe = lora_recipe(lora_models, method, **parameters)
    from_adapters = ws.merge(recipe)
    from_models = merged_from_whole_models(recipe, tmp_path)
    base = load_file(lora_models / "base" / "model.safetensors")
    for name, tensor in from_adapters.items():
        change = tensor - base[name]
        assert float((from_models[name] - tensor).norm()) <= 1e-3 * float(change.norm()) + 1e-6, name


def test_core_space_takes_the_mean_over_the_directions_that_adapters_have(lora_models: Path) -> None:
    base, name = load_file(lora_models / "base" / "model.safetensors"), "model.layers.1.self_attn.q_proj.weight"
    of_all, of_own = (
        (ws.merge(lora_recipe(lora_models, method, **rule))[name] - base[name]).norm()
        for method, rule in (("iso_c", {}), ("core_space", {"rule": "iso_c"}))
    )
    assert of_all < of_own / 2


@pytest.mark.parametrize("method", ["tsv_m", "aswudi", "core_space"])
def test_adapters_of_fused_and_transposed_weights(method: str, tmp_path: Path) -> None:
    """GPT-2 stores query, key and value in one matrix, inputs by outputs."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=24, n_layer=1, n_head=2))
    base.save_pretrained(tmp_path / "base")
    for seed, name in enumerate(("one", "two", "three")):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=2 + seed, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
        tuned = peft.get_peft_model(GPT2LMHeadModel.from_pretrained(tmp_path / "base"), config)
        tuned.save_pretrained(str(tmp_path / name))
    recipe = lora_recipe(tmp_path, method)
    from_adapters = ws.merge(recipe)
    from_models = merged_from_whole_models(recipe, tmp_path / "whole")
    name = "transformer.h.0.attn.c_attn.weight"
    change = from_models[name] - base.state_dict()[name]
    assert float(change.norm()) > 0.1
    close(from_adapters[name] - base.state_dict()[name], change, 1e-3)


def test_adapters_are_not_held_as_matrices(lora_models: Path, tmp_path: Path) -> None:
    """Their bytes do not depend on the threads, and the plan says what they take."""
    recipe = lora_recipe(lora_models, "tsv_m")
    for threads in (1, 3):
        ws.merge(recipe, tmp_path / str(threads), threads=threads)
    one, three = ((tmp_path / str(threads) / "model.safetensors").read_bytes() for threads in (1, 3))
    assert one == three
    (tmp_path / "r.yml").write_text(json.dumps(recipe))
    done = weightsmith_process("merge", tmp_path / "r.yml", tmp_path / "out", "--dry-run")
    assert "adapters are merged from their own matrices; embeddings: mean" in done.stdout, done.stderr
    (tmp_path / "r.yml").write_text(json.dumps(lora_recipe(lora_models, "svc", rule="ties")))
    done = weightsmith_process("merge", tmp_path / "r.yml", tmp_path / "out", "--dry-run")
    assert "matrices are held whole" in done.stdout, done.stderr


def test_parts_of_a_fused_weight_have_cores_of_their_own() -> None:
    deltas = torch.stack([b @ a for b, a in adapters(24, 16, [3, 2])])
    apart = merged("core_space", deltas, MatrixLayout(1, (16, 8)))
    top, bottom = merged("core_space", deltas[:, :16]), merged("core_space", deltas[:, 16:])
    close(apart, torch.cat([top, bottom]), 1e-3)


@pytest.mark.parametrize(
    ("method", "parameters", "said"),
    [
        ("svc", {"rule": "tsv_m", "density": 0.5}, "the rule tsv_m has no density"),
        ("svc", {"rule": "ties", "density": 0.5}, None),
        ("knots", {"rule": "swudi", "t": 3}, None),
        ("core_space", {"rule": "ties", "rank_ratio": 0.3, "t": 4}, "has no rank_ratio, t, which does nothing"),
    ],
)
def test_what_a_rule_does_not_have_is_said(method: str, parameters: dict, said: str | None, lora_models: Path) -> None:
    warnings = ws.plan(lora_recipe(lora_models, method, **parameters)).warnings
    assert any(said in warning for warning in warnings) if said else not any("rule" in w for w in warnings)


def test_the_rule_makes_what_is_no_matrix(models: Path) -> None:
    recipe = {
        "merge_method": "svc",
        "base_model": str(models / "base"),
        "models": [{"model": str(models / name), "parameters": {"density": 0.4}} for name in "ab"],
        "parameters": {"rule": "ties", "lambda": 1.0},
        "dtype": "float32",
    }
    ours = ws.merge(recipe)
    recipe["merge_method"], recipe["parameters"] = "ties", {"weight": 1.0}
    plain = ws.merge(recipe)
    for name in ("model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(ours[name], plain[name], rtol=0, atol=1e-7)
    changed = "model.layers.0.mlp.up_proj.weight"
    assert not torch.allclose(ours[changed], plain[changed], atol=1e-4)


def test_a_misspelled_rule_gets_the_nearest_name(lora_models: Path) -> None:
    with pytest.raises(RecipeError, match=r"rule is 'tiess': expected one of .*; did you mean 'ties'\?"):
        ws.plan(lora_recipe(lora_models, "svc", rule="tiess"))
    with pytest.raises(RecipeError, match=r"rule is 'nonsense': expected one of [a-z_, ]*$"):
        ws.plan(lora_recipe(lora_models, "svc", rule="nonsense"))


@pytest.mark.parametrize(("method", "warned"), [("iso_c", True), ("iso_cts", True), ("tsv_m", False)])
def test_a_flat_spectrum_of_adapters_is_a_warning(method: str, warned: bool, lora_models: Path) -> None:
    warnings = " ".join(ws.plan(lora_recipe(lora_models, method)).warnings)
    assert (f"core_space with `rule: {method}` takes the mean over those alone" in warnings) is warned
