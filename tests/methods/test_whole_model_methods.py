"""Methods that have to know the whole model first, against dense float64 references; and LiNeS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import weightsmith as ws
from weightsmith.blocks.block import Block
from weightsmith.errors import RecipeError
from weightsmith.methods.tensor_settings import Settings
from weightsmith.methods.whole_model import Totals, score_passes

SHAPES = {
    "model.embed_tokens.weight": (50, 24),
    "model.layers.0.mlp.up_proj.weight": (700, 1024),  # more than one block
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.1.mlp.up_proj.weight": (40, 24),
    "model.layers.2.mlp.up_proj.weight": (40, 24),
    "model.norm.weight": (24,),
}
SPREAD = 1e-2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `a`, `b`, `c` as files of weights alone; each fine-tune has changed some elements."""
    folder = tmp_path_factory.mktemp("files")
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    save_file(base, folder / "base.safetensors")
    for number, name in enumerate("abc"):
        tuned = {}
        for tensor, weight in base.items():
            changed = torch.rand(weight.shape, generator=generator) < 0.2 + 0.1 * number
            tuned[tensor] = weight + SPREAD * torch.randn(weight.shape, generator=generator) * changed
        save_file(tuned, folder / f"{name}.safetensors")
    return folder


def recipe(files: Path, method: str, **parameters) -> dict:
    own = {"weight": parameters.pop("weight")} if "weight" in parameters else {}
    return {
        "merge_method": method,
        "base_model": str(files / "base.safetensors"),
        "models": [{"model": str(files / f"{name}.safetensors"), "parameters": own} for name in "abc"],
        "parameters": parameters,
        "dtype": "float32",
    }


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in SHAPES])


def task_vectors(files: Path) -> torch.Tensor:
    base = flat(load_file(files / "base.safetensors"))
    return torch.stack([flat(load_file(files / f"{name}.safetensors")) - base for name in "abc"])


def merged_vector(files: Path, merge_recipe: dict, **options) -> torch.Tensor:
    return flat(ws.merge(merge_recipe, **options)) - flat(load_file(files / "base.safetensors"))


def test_ram_plus_counts_over_the_whole_model(files: Path) -> None:
    deltas = task_vectors(files)
    changed = deltas.abs() > 1e-5
    count = changed.sum(0)
    expected = torch.where(count > 1, (deltas * changed).sum(0) / count.clamp(min=1), 0.0)
    for delta, own in zip(deltas, changed, strict=True):
        rho = (own & (count > 1)).sum() / (own & (count == 1)).sum()
        expected += delta * (own & (count == 1)) * (1 + 0.3 * rho.clip(0, 0.7))
    merged = merged_vector(files, recipe(files, "ramplus", r=0.3, alpha=0.7))
    torch.testing.assert_close(merged, expected, rtol=0, atol=5e-7)
    of_tensors = merged_vector(files, recipe(files, "ramplus_tl", r=0.3, alpha=0.7))
    assert (merged - of_tensors).abs().max() > 1e-5


def pcb(deltas: torch.Tensor, density: float) -> torch.Tensor:
    """As the paper's code has it, on flat vectors."""
    count, size = deltas.shape
    sizes, _ = deltas.abs().sort(1)
    low, high = sizes[:, int(size * 1e-4), None], sizes[:, int(size * (1 - 1e-4)) - 1, None]
    clamped = deltas.abs().clamp(low, high)
    competition = (count * ((clamped - low) / (high - low)) ** 2).exp() * (deltas * deltas.sum(0)).tanh()
    order, _ = competition.sort(1)
    least = order[:, int(size * (1 - density)), None]
    weights = (competition.clamp(min=least) - least) / (order[:, -1:] - least)
    return (deltas.sign() * clamped * weights).sum(0) / weights.sum(0).clamp(min=1e-12)


@pytest.mark.parametrize("density", [0.05, 0.3])
def test_pcb_competes_in_the_whole_model(density: float, files: Path) -> None:
    merged = merged_vector(files, recipe(files, "pcb", density=density, **{"lambda": 0.5}))
    expected = 0.5 * pcb(task_vectors(files), density)
    off = (merged - expected).abs() > 1e-6
    assert off.double().mean() < 1e-4  # those whose weight is a rounding error
    assert (expected != 0).double().mean() < 3 * density


def test_one_expert_of_pcb_keeps_its_signs(files: Path) -> None:
    one = recipe(files, "pcb", density=1.0)
    del one["models"][1:]
    merged, delta = merged_vector(files, one), task_vectors(files)[0]
    kept = merged.abs() > 1e-6
    assert torch.equal(merged.sign()[kept], delta.sign()[kept])


@pytest.mark.parametrize("method", ["pcb", "ramplus", "ties"])
def test_threads_and_folders_change_nothing(method: str, files: Path, tmp_path: Path) -> None:
    own = {"weight": 1.0} if method == "ties" else {}
    one = recipe(files, method, lines_alpha="auto", lines_beta=0.5, **own)
    in_memory = ws.merge(one, threads=1)
    ws.merge(one, tmp_path / "out", threads=2)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(in_memory[name], written[name]) for name in SHAPES)


def test_lines_grows_with_depth(files: Path) -> None:
    plain = {name: t.double() for name, t in ws.merge(recipe(files, "task_arithmetic", weight=0.5)).items()}
    scaled = ws.merge(recipe(files, "task_arithmetic", weight=0.5, lines_alpha=0.2, lines_beta=0.8))
    base = load_file(files / "base.safetensors")
    factors = {"layers.0.": 0.2, "layers.1.": 0.6, "layers.2.": 1.0}
    for name, tensor in scaled.items():
        factor = next((f for part, f in factors.items() if part in name), 0.2)
        torch.testing.assert_close(tensor.double(), base[name] + factor * (plain[name] - base[name]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["ties", "sce", "iso_c", "consensus", "ram", "dare_linear", "tsv_m", "della"])
def test_automatic_alpha_gives_the_length_of_the_mean(method: str, files: Path) -> None:
    own = {"weight": 0.7} if method in ("ties", "dare_linear", "della") else {}
    one = recipe(files, method, lines_alpha="auto", **own)
    length = task_vectors(files).mean(0).norm()
    assert merged_vector(files, one).norm() == pytest.approx(length.item(), rel=1e-4)
    assert merged_vector(files, recipe(files, method, **own)).norm() != pytest.approx(length.item(), rel=1e-2)


def test_automatic_alpha_of_one_model_is_one(files: Path) -> None:
    one = recipe(files, "task_arithmetic", weight=1.0, lines_alpha="auto")
    del one["models"][1:]
    torch.testing.assert_close(merged_vector(files, one), task_vectors(files)[0], rtol=0, atol=1e-6)


def test_a_plan_shows_the_factor(files: Path) -> None:
    text = str(ws.plan(recipe(files, "ties", weight=1.0, lines_beta=-0.5)))
    last = next(line for line in text.splitlines() if "layers.2" in line)
    assert "scale 0.5" in last
    assert "lines" not in text


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("pcb", {"density": [0.1, 0.2]}, "density of pcb is one value for the whole model"),
        ("pcb", {"density": [{"filter": "mlp", "value": 0.1}]}, "without a gradient or a filter"),
        ("ties", {"lines_alpha": "atuo"}, "lines_alpha is 'atuo': expected a number or auto"),
        ("ties", {"lines_alpha": [1, "auto"]}, "'auto' stands alone"),
        ("ram", {"lines_beta": "auto"}, "lines_beta is 'auto': expected a number"),
    ],
)
def test_what_cannot_be_is_refused(method: str, parameters: dict, message: str, files: Path) -> None:
    own = {"weight": 1.0} if method == "ties" else {}
    with pytest.raises(RecipeError, match=message):
        ws.plan(recipe(files, method, **parameters, **own))


def test_a_stage_that_knows_its_whole_model(files: Path, tmp_path: Path) -> None:
    first, second = recipe(files, "ramplus"), recipe(files, "task_arithmetic", weight=0.5)
    first["name"], second["models"] = "first", [{"model": "first", "parameters": {"weight": 0.5}}]
    both = tmp_path / "both.yml"
    both.write_text("---\n".join(map(yaml.safe_dump, (first, second))))
    del first["name"]
    direct = merged_vector(files, first)
    torch.testing.assert_close(merged_vector(files, str(both)), direct / 2, rtol=0, atol=1e-6)


class _Scan:
    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def blocks(self):
        for start in range(0, self._values.shape[1], 7):
            yield Block.of(start, np.ascontiguousarray(self._values[:, start : start + 7]))


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.lists(FLOATS, min_size=1, max_size=30), min_size=1, max_size=4),
    st.lists(st.tuples(st.floats(0, 1), st.integers(-2, 2)), min_size=1, max_size=3),
)
def test_places_are_found_exactly(tensors: list[list[float]], places: list[tuple[float, int]]) -> None:
    def score(block: Block, settings: Settings) -> dict[str, torch.Tensor]:
        return {"model": block.inputs[0]}

    known: dict = {}
    for one in score_passes("scores", score, places):
        totals = Totals()
        for tensor in tensors:
            one.gather(_Scan(np.array([tensor], np.float32)), Settings({}, (), None, whole_model=known), totals)  # type: ignore[arg-type]
        known |= one.conclude(totals, known)
    ordered = np.sort(np.concatenate([np.array(tensor, np.float32) for tensor in tensors]))
    wanted = [ordered[min(max(int(len(ordered) * share) + offset, 0), len(ordered) - 1)] for share, offset in places]
    assert known["scores"]["model"] == wanted
