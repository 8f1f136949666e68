"""Every method against mergekit 0.1.5 on the same recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import weightsmith
import weightsmith.errors
from tests.mergekit_oracle import run_mergekit

GRADIENT, FILTERED = [0.2, 0.9, 0.4], [{"filter": "mlp", "value": [0.1, 0.8]}, {"value": 0.6}]
ALL = ("a", "b", "c")
EPSILON = 0.01  # half of the noise that makes the fine-tunes
RECIPES = {
    "linear": {"merge_method": "linear", "weights": (0.5, GRADIENT, FILTERED), "base": None},
    "linear-raw": {
        "merge_method": "linear",
        "weights": (0.5, 0.2, 0.4),
        "base": None,
        "parameters": {"normalize": False},
    },
    "task-arithmetic": {
        "merge_method": "task_arithmetic",
        "weights": (0.5, GRADIENT, FILTERED),
        "parameters": {"lambda": 0.8},
    },
    "task-arithmetic-normalized": {
        "merge_method": "task_arithmetic",
        "weights": (1, 2, -0.5),
        "parameters": {"normalize": True},
    },
    "ties": {"merge_method": "ties", "weights": (1.0, GRADIENT, FILTERED), "density": (0.5, 0.3, 1.0)},
    "ties-rescale": {
        "merge_method": "ties",
        "weights": (1.0, 0.5, 0.7),
        "density": (0.5, 0.13, 0.9),
        "parameters": {"normalize": False, "rescale": True, "lambda": 1.3},
    },
    "breadcrumbs": {
        "merge_method": "breadcrumbs",
        "weights": (1.0, GRADIENT, FILTERED),
        "density": (0.5, 0.3, 0.995),
        "more": ({"gamma": 0.05}, {}, {"gamma": 0.02}),
    },
    "breadcrumbs-ties": {
        "merge_method": "breadcrumbs_ties",
        "weights": (1.0, 0.5, 0.7),
        "density": (0.5, 0.9, 0.2),
        "more": ({"gamma": 0.2}, {"gamma": 0.3}, {}),
        "parameters": {"normalize": True, "rescale": True},
    },
    "model-stock": {"merge_method": "model_stock", "weights": None},
    "model-stock-by-rows": {"merge_method": "model_stock", "weights": None, "parameters": {"filter_wise": True}},
    "ram": {"merge_method": "ram", "weights": None, "parameters": {"epsilon": EPSILON}},
    "ram-by-default": {"merge_method": "ram", "weights": None},
    "ramplus": {
        "merge_method": "ramplus_tl",
        "weights": None,
        "parameters": {"epsilon": EPSILON, "r": 0.3, "alpha": 4.0},
    },
    "sce": {"merge_method": "sce", "weights": None},
    "sce-selects": {"merge_method": "sce", "weights": None, "parameters": {"select_topk": 0.1}},
    "multislerp": {"merge_method": "multislerp", "weights": (0.5, GRADIENT, FILTERED)},
    "multislerp-no-base": {"merge_method": "multislerp", "weights": (0.5, GRADIENT, FILTERED), "base": None},
    "multislerp-raw": {
        "merge_method": "multislerp",
        "weights": (0.5, 0.9, -0.1),
        "parameters": {"normalize_weights": False, "eps": 1e-6},
    },
    "karcher": {"merge_method": "karcher", "weights": None, "base": None},
    "karcher-base": {"merge_method": "karcher", "weights": None},
    "karcher-one-step": {
        "merge_method": "karcher",
        "weights": None,
        "base": None,
        "parameters": {"max_iter": 1, "tol": 1e-3},
    },
    "dare-keeps-all": {"merge_method": "dare_ties", "weights": (1.0, 0.5, 0.7), "density": (1.0, 1.0, 1.0)},
    "della-keeps-all": {"merge_method": "della", "weights": (1.0, 0.5, 0.7), "density": (1.0, 1.0, 1.0)},
}


def recipe(models: Path, spec: dict, **more) -> dict:
    entries = []
    for i, name in enumerate(ALL):
        parameters = {"weight": spec["weights"][i]} if spec["weights"] else {}
        parameters |= ({"density": spec["density"][i]} if "density" in spec else {}) | spec.get("more", ({},) * 3)[i]
        entries.append({"model": str(models / name), "parameters": parameters})
    made = {"merge_method": spec["merge_method"], "models": entries, "dtype": "float32"} | more
    if spec.get("base", True):
        made["base_model"] = str(models / "base")
    if "parameters" in spec:
        made["parameters"] = spec["parameters"]
    return made


def slerp(models: Path) -> dict:
    entries = [{"model": str(models / "base")}, {"model": str(models / "a")}]
    t = [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": 0.3}]
    return {
        "merge_method": "slerp",
        "base_model": str(models / "base"),
        "models": entries,
        "parameters": {"t": t},
        "dtype": "float32",
    }


def nearswap(models: Path) -> dict:
    made = slerp(models) | {"merge_method": "nearswap", "parameters": {"t": [0.001, 0.02]}}
    return made


def arcee_fusion(models: Path) -> dict:
    made = slerp(models) | {"merge_method": "arcee_fusion"}
    del made["parameters"]
    return made


def nuslerp(models: Path, base: str | None = "base", **parameters) -> dict:
    weights = ([0.2, 0.9], FILTERED)
    entries = [
        {"model": str(models / name), "parameters": {"weight": w}} for name, w in zip("ab", weights, strict=True)
    ]
    made = {"merge_method": "nuslerp", "models": entries, "parameters": parameters, "dtype": "float32"}
    return made | ({"base_model": str(models / base)} if base else {})


def nuslerp_without_base(models: Path) -> dict:
    return nuslerp(models, base=None)


def nuslerp_by_rows(models: Path) -> dict:
    return nuslerp(models, nuslerp_flatten=False)


def nuslerp_by_columns(models: Path) -> dict:
    return nuslerp(models, nuslerp_flatten=False, nuslerp_row_wise=True)


def nuslerp_by_columns_without_base(models: Path) -> dict:
    return nuslerp(models, base=None, nuslerp_flatten=False, nuslerp_row_wise=True)


def stacked(models: Path) -> dict:
    slices = [
        {"sources": [{"model": str(models / "a"), "layer_range": [0, 2]}]},
        {"sources": [{"model": str(models / "b"), "layer_range": [1, 3], "parameters": {"scale": 0.5}}]},
    ]
    return {"merge_method": "passthrough", "slices": slices, "dtype": "float32"}


def both(made: dict, tmp_path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(made))
    weightsmith.merge(path, tmp_path / "ours")
    return load_file(tmp_path / "ours" / "model.safetensors"), run_mergekit(made, tmp_path / "theirs")


def assert_same(ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], relative: float) -> None:
    assert ours.keys() == reference.keys()
    for name, want in reference.items():
        assert ours[name].dtype == want.dtype
        # relative to the tensor's own size: a sum that cancels has no digits of its own
        worst = (
            (ours[name].double() - want.double()).abs() / want.double().abs().clamp(min=want.abs().max() * 0.1)
        ).max()
        assert worst <= relative, f"{name}: {worst}"


@pytest.mark.parametrize("name", RECIPES)
def test_same_numbers_in_float32(name: str, models: Path, tmp_path: Path) -> None:
    # mergekit takes the cosine of each row, and norms, in float32, we in float64
    loose = name == "model-stock-by-rows" or name.startswith("multislerp")
    assert_same(*both(recipe(models, RECIPES[name]), tmp_path), relative=2e-6 if loose else 1e-6)


@pytest.mark.parametrize(
    "make",
    [
        slerp,
        nearswap,
        arcee_fusion,
        nuslerp,
        nuslerp_without_base,
        nuslerp_by_rows,
        nuslerp_by_columns,
        nuslerp_by_columns_without_base,
        stacked,
    ],
)
def test_same_numbers_of_one_and_two_models(make, models: Path, tmp_path: Path) -> None:
    assert_same(*both(make(models), tmp_path), relative=1e-6)


@pytest.mark.parametrize("dtype,epsilon", [("bfloat16", 2**-7), ("float16", 2**-10)])
def test_out_dtype_to_its_rounding(dtype: str, epsilon: float, models: Path, tmp_path: Path) -> None:
    assert_same(*both(recipe(models, RECIPES["ties"], out_dtype=dtype), tmp_path), relative=epsilon)


@pytest.mark.parametrize("dtype,epsilon", [("bfloat16", 2**-7), ("float16", 2**-10)])
@pytest.mark.parametrize("name", RECIPES)
def test_dtype_is_the_float32_result_rounded_once(
    name: str, dtype: str, epsilon: float, models: Path, tmp_path: Path
) -> None:
    made = recipe(models, RECIPES[name])
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(made | {"dtype": dtype}))
    weightsmith.merge(tmp_path / "recipe.yml", tmp_path / "ours")
    reference = {k: v.to(getattr(torch, dtype)) for k, v in run_mergekit(made, tmp_path / "theirs").items()}
    assert_same(load_file(tmp_path / "ours" / "model.safetensors"), reference, relative=epsilon)


@pytest.mark.parametrize("dtype,epsilon", [("bfloat16", 2**-7), ("float16", 2**-10)])
@pytest.mark.parametrize("name", ["linear", "task-arithmetic"])
def test_mergekit_in_the_low_dtype_itself(name: str, dtype: str, epsilon: float, models: Path, tmp_path: Path) -> None:
    # mergekit rounds its inputs and every step: a few roundings apart where ours is one
    assert_same(*both(recipe(models, RECIPES[name]) | {"dtype": dtype}, tmp_path), relative=16 * epsilon)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
@pytest.mark.parametrize("rescale", [True, False])
def test_random_methods_by_distribution(method: str, rescale: bool, models: Path, tmp_path: Path) -> None:
    """One fine-tune: which elements moved, how many, how far, and for DELLA how that depends on their rank in the
    row."""
    density, weight = 0.6, 0.8
    entries = [{"model": str(models / "a"), "parameters": {"weight": weight, "density": density}}]
    made = {
        "merge_method": method,
        "base_model": str(models / "base"),
        "models": entries,
        "dtype": "float32",
        "parameters": {"rescale": rescale, "normalize": False},
    }
    torch.manual_seed(1)
    results = both(made, tmp_path)
    base, tuned = (load_file(models / n / "model.safetensors") for n in ("base", "a"))
    for merged in results:
        moved, elements, upper, lower = 0, 0, [], []
        for name, value in base.items():
            delta, change = (tuned[name] - value).double(), (merged[name] - value).double()
            kept = change.abs() > 1e-9
            moved, elements = moved + int(kept.sum()), elements + kept.numel()
            if rescale:
                torch.testing.assert_close(change.abs().sum(), weight * delta.abs().sum(), rtol=1e-4, atol=1e-6)
            ratio = (change / delta)[kept]
            expected = ratio.median() if rescale else torch.tensor(weight, dtype=torch.float64)
            assert ((ratio / expected - 1).abs() < 0.02).double().mean() > 0.99
            if delta.dim() == 2:
                ranks = delta.abs().argsort(1).argsort(1) / (delta.shape[1] - 1)
                upper.append(kept[ranks > 0.5].double())
                lower.append(kept[ranks < 0.5].double())
        assert abs(moved / elements - density) < 5 * (density * (1 - density) / elements) ** 0.5
        apart = float(torch.cat(upper).mean() - torch.cat(lower).mean())
        assert apart == pytest.approx(0.15 if "della" in method else 0.0, abs=0.02)


@pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "breadcrumbs_ties"])
@pytest.mark.parametrize("case", ["nothing moved", "all the same"])
def test_zero_and_equal_task_vectors(name: str, case: str, models: Path, tmp_path: Path) -> None:
    tuned = models / ("base" if case == "nothing moved" else "a")
    entries = []
    for i in range(2):
        (tmp_path / f"m{i}").symlink_to(tuned)
        entries.append({"model": str(tmp_path / f"m{i}"), "parameters": {"weight": 0.5, "density": 0.5}})
    made = {"merge_method": name, "base_model": str(models / "base"), "models": entries, "dtype": "float32"}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(made))
    weightsmith.merge(tmp_path / "recipe.yml", tmp_path / "ours")
    ours, base = (load_file(f / "model.safetensors") for f in (tmp_path / "ours", models / "base"))
    if case == "nothing moved":
        assert all(torch.equal(ours[k], base[k]) for k in base)
    elif name in ("ties", "breadcrumbs_ties"):
        assert_same(ours, run_mergekit(made, tmp_path / "theirs"), relative=1e-6)


def test_della_s_epsilon_is_checked_before_the_work(models: Path, tmp_path: Path) -> None:
    made = recipe(models, {"merge_method": "della", "weights": (1.0, 1.0, 1.0), "density": (0.5, 0.9, 0.5)})
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(made))
    with pytest.raises(
        weightsmith.errors.RecipeError, match=r"density 0\.9 and epsilon 0\.15.*must lie between 0 and 1"
    ):
        weightsmith.merge(tmp_path / "recipe.yml", tmp_path / "ours")


@pytest.mark.parametrize("name", ["ties-rescale", "breadcrumbs", "model-stock-by-rows", "dare", "della"])
def test_same_bytes_whatever_the_threads(name: str, models: Path, tmp_path: Path) -> None:
    random = {
        "dare": {"merge_method": "dare_ties", "weights": (1.0, 0.5, 0.7), "density": (0.5, 0.3, 0.9)},
        "della": {"merge_method": "della", "weights": (1.0, 0.5, 0.7), "density": (0.5, 0.3, 0.8)},
    }
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe(models, (RECIPES | random)[name])))
    for threads in (1, 2):
        weightsmith.merge(path, tmp_path / str(threads), threads=threads)
    one, two = ((tmp_path / n / "model.safetensors").read_bytes() for n in "12")
    assert one == two


def test_shards_are_read_back_by_transformers(models: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe(models, RECIPES["linear"])))
    weightsmith.merge(path, tmp_path / "out", out_shard_size=100_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()
    _, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
