"""How far recipes in float16 and bfloat16 are from exact: weightsmith rounds once, mergekit at each step.

    .venv/bin/python benchmarks/low_precision.py

Merges random models, stored in the recipe's dtype, with both programs, and compares them with the formula in float64.
Errors are in units of the last place of the result's dtype (ulp); half of one is what rounding alone costs.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

import weightsmith as ws

Tensors = dict[str, torch.Tensor]
WEIGHTS = (0.5, 0.3)


def linear(base: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (WEIGHTS[0] * a + WEIGHTS[1] * b) / sum(WEIGHTS)


def task_arithmetic(base: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return base + WEIGHTS[0] * (a - base) + WEIGHTS[1] * (b - base)


def slerp(base: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    t, cosine = 0.3, float((base * a).sum() / (base.norm() * a.norm()))
    if abs(cosine) > 0.9995:
        return (1 - t) * base + t * a
    angle = torch.acos(torch.tensor(cosine, dtype=torch.float64))
    return (torch.sin((1 - t) * angle) * base + torch.sin(t * angle) * a) / torch.sin(angle)


METHODS: dict[str, Callable[..., torch.Tensor]] = {"linear": linear, "task_arithmetic": task_arithmetic, "slerp": slerp}


def make_models(folder: Path, dtype: torch.dtype) -> dict[str, Path]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, vocab_size=1024
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    paths = {}
    for name in ("base", "a", "b"):
        moved = {k: v + (0 if name == "base" else 2e-3) * torch.randn_like(v) for k, v in start.items()}
        model.float().load_state_dict(moved)
        model.to(dtype).save_pretrained(folder / name)
        paths[name] = folder / name
    return paths


def recipe_of(method: str, paths: dict[str, Path], dtype: str) -> dict:
    names = ("base", "a") if method == "slerp" else ("a", "b")
    entries = [{"model": str(paths[name])} for name in names]
    if method != "slerp":
        entries = [e | {"parameters": {"weight": w}} for e, w in zip(entries, WEIGHTS, strict=True)]
    recipe = {"merge_method": method, "models": entries, "dtype": dtype}
    if method != "linear":
        recipe["base_model"] = str(paths["base"])
    return recipe | ({"parameters": {"t": 0.3}} if method == "slerp" else {})


def run_mergekit(recipe: dict, out: Path) -> Tensors:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    run_merge(MergeConfiguration.model_validate(recipe), str(out), MergeOptions(copy_tokenizer=False, quiet=True))
    return load_file(out / "model.safetensors")


def errors(result: Tensors, exact: Tensors, dtype: torch.dtype) -> tuple[float, float, float]:
    """(mean error in ulp, largest, share of elements that are not the exact result rounded)."""
    total, worst, other, count = 0.0, 0.0, 0, 0
    for name, expected in exact.items():
        rounded = expected.to(dtype)
        ulp = torch.finfo(dtype).eps * 2.0 ** torch.floor(torch.log2(expected.abs().clamp(min=1e-4)))
        error = (result[name].double() - expected).abs() / ulp
        total, worst = total + float(error.sum()), max(worst, float(error.max()))
        other, count = other + int((result[name] != rounded).sum()), count + expected.numel()
    return total / count, worst, other / count


def main() -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "mergekit", "weightsmith"))
    print(f"{platform.processor() or platform.machine()}; {versions}\n")
    print(
        "| dtype | method | weightsmith: mean error | largest | not the nearest | mergekit: mean error | largest | not the nearest |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for dtype_name in ("bfloat16", "float16"):
        dtype = getattr(torch, dtype_name)
        with tempfile.TemporaryDirectory() as folder:
            paths = make_models(Path(folder), dtype)
            weights = {name: load_file(path / "model.safetensors") for name, path in paths.items()}
            for method, formula in METHODS.items():
                recipe = recipe_of(method, paths, dtype_name)
                exact = {n: formula(*(weights[m][n].double() for m in ("base", "a", "b"))) for n in weights["base"]}
                path = Path(folder) / f"{method}.yml"
                path.write_text(yaml.safe_dump(recipe))
                ws.merge(path, Path(folder) / f"{method}-ours")
                ours = load_file(Path(folder) / f"{method}-ours" / "model.safetensors")
                cells = []
                for result in (ours, run_mergekit(recipe, Path(folder) / f"{method}-theirs")):
                    mean, worst, other = errors(result, exact, dtype)
                    cells.append(f"{mean:.2f} ulp | {worst:.2f} ulp | {other:.2%}")
                print(f"| {dtype_name} | {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
