"""Quantized weights: how fast each format is decoded on one core, and what a merge of quantized models takes beside one
of the same models in bfloat16.

    python benchmarks/decode_quantized.py [FOLDER]
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from measured import measure, where
from safetensors.torch import save_file

from weightsmith.checkpoint.checkpoint import Checkpoint
from weightsmith.checkpoint.views.quantized.find_quantized import decode_quantized
from weightsmith.checkpoint.weights_folder import WeightsFolder

ROWS, COLUMNS, GROUP = 4096, 11008, 128
BLOCK, ROUNDS = 1 << 19, 5
HIDDEN, SIZE, LAYERS = 2048, 5504, 8

Tensors = dict[str, torch.Tensor]


def words(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


def octets(*shape: int) -> torch.Tensor:
    return torch.randint(0, 120, shape, dtype=torch.uint8)


def fp8() -> tuple[Tensors, dict]:
    codes, scales = octets(ROWS, COLUMNS).view(torch.float8_e4m3fn), torch.rand(ROWS // 128, COLUMNS // 128)
    return {"w.weight": codes, "w.weight_scale_inv": scales}, {"quant_method": "fp8"}


def nf4() -> tuple[Tensors, dict]:
    blocks = ROWS * COLUMNS // 64
    state = {"shape": [ROWS, COLUMNS], "blocksize": 64, "nested_blocksize": 256, "nested_offset": 0.1}
    tensors = {
        "w.weight": octets(ROWS * COLUMNS // 2, 1),
        "w.weight.absmax": octets(blocks),
        "w.weight.quant_map": torch.rand(16),
        "w.weight.nested_absmax": torch.rand(-(-blocks // 256)),
        "w.weight.nested_quant_map": torch.rand(256),
        "w.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }
    return tensors, {"quant_method": "bitsandbytes"}


def int8() -> tuple[Tensors, dict]:
    return {"w.weight": octets(ROWS, COLUMNS).view(torch.int8), "w.SCB": torch.rand(ROWS)}, {
        "quant_method": "bitsandbytes"
    }


def gptq() -> tuple[Tensors, dict]:
    groups = COLUMNS // GROUP
    tensors = {"w.qweight": words(COLUMNS // 8, ROWS), "w.qzeros": words(groups, ROWS // 8)}
    tensors |= {"w.scales": torch.rand(groups, ROWS).half(), "w.g_idx": (torch.arange(COLUMNS) // GROUP).int()}
    return tensors, {"quant_method": "gptq", "group_size": GROUP}


def awq() -> tuple[Tensors, dict]:
    groups = COLUMNS // GROUP
    tensors = {"w.qweight": words(COLUMNS, ROWS // 8), "w.qzeros": words(groups, ROWS // 8)}
    return tensors | {"w.scales": torch.rand(groups, ROWS).half()}, {"quant_method": "awq", "group_size": GROUP}


def mxfp4() -> tuple[Tensors, dict]:
    return {"w_blocks": octets(4, 5760, 90, 16), "w_scales": octets(4, 5760, 90)}, {"quant_method": "mxfp4"}


def packed_int4() -> tuple[Tensors, dict]:
    tensors = {"w.weight_packed": words(ROWS, COLUMNS // 8), "w.weight_scale": torch.rand(ROWS, COLUMNS // GROUP)}
    tensors["w.weight_shape"] = torch.tensor([ROWS, COLUMNS])
    return tensors, {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def nvfp4() -> tuple[Tensors, dict]:
    tensors = {"w.weight_packed": octets(ROWS, COLUMNS // 2), "w.weight_global_scale": torch.rand(1)}
    tensors["w.weight_scale"] = octets(ROWS, COLUMNS // 16).view(torch.float8_e4m3fn)
    return tensors, {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}


def bfloat16() -> tuple[Tensors, dict]:
    return {"w.weight": torch.rand(ROWS, COLUMNS).bfloat16()}, {}


FORMATS: dict[str, Callable[[], tuple[Tensors, dict]]] = {
    "FP8, blocks of 128 x 128": fp8,
    "bitsandbytes nf4, double": nf4,
    "bitsandbytes int8": int8,
    "GPTQ, 4 bit": gptq,
    "AWQ, 4 bit": awq,
    "MXFP4 experts": mxfp4,
    "compressed-tensors int4": packed_int4,
    "NVFP4": nvfp4,
    "bfloat16, not quantized": bfloat16,
}


def read_whole(view: Checkpoint, name: str) -> float:
    """Seconds for all blocks of a tensor, as a merge reads them."""
    count, out = view.tensors[name].numel, np.empty(BLOCK, np.float32)
    started = time.perf_counter()
    for start in range(0, count, BLOCK):
        stop = min(count, start + BLOCK)
        view.read(name, start, stop, out[: stop - start])
    return time.perf_counter() - started


def decoding(folder: Path) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    views = {}
    for number, (title, make) in enumerate(FORMATS.items()):
        tensors, config = make()
        place = folder / str(number)
        place.mkdir()
        save_file(tensors, place / "model.safetensors")
        views[title], _, _ = decode_quantized(
            WeightsFolder(place), {"quantization_config": config} if config else {}, place
        )
    seconds: dict[str, list[float]] = {title: [] for title in views}
    for round_number in range(ROUNDS + 1):  # the first one compiles and fills the page cache
        for title, view in views.items():
            taken = read_whole(view, next(iter(view.tensors)))
            if round_number:
                seconds[title].append(taken)
    print(
        "\n| format | GB/s of decoded bfloat16, one core | times as long as reading bfloat16 |\n| --- | ---: | ---: |"
    )
    plain = (
        statistics.median(seconds["bfloat16, not quantized"])
        / views["bfloat16, not quantized"].tensors["w.weight"].numel
    )
    for title, view in views.items():
        count = next(iter(view.tensors.values())).numel
        each = statistics.median(seconds[title])
        print(f"| {title} | {2 * count / each / 1e9:.2f} | {each / count / plain:.1f} |")


def save_models(folder: Path) -> dict[str, list[Path]]:
    """Two models of some hundred million parameters, in each form."""
    forms: dict[str, list[Path]] = {"bfloat16": [], "FP8": [], "MXFP4": []}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "tiny", "num_hidden_layers": LAYERS}
    for seed in (1, 2):
        torch.manual_seed(seed)
        plain: Tensors = {}
        blocks: Tensors = {}
        fours: Tensors = {}
        for layer in range(LAYERS):
            for name, rows, columns in (("up", SIZE, HIDDEN), ("down", HIDDEN, SIZE), ("q", HIDDEN, HIDDEN)):
                weight = f"model.layers.{layer}.{name}.weight"
                plain[weight] = torch.randn(rows, columns).bfloat16()
                blocks[weight] = octets(rows, columns).view(torch.float8_e4m3fn)
                blocks[f"{weight}_scale_inv"] = torch.rand(-(-rows // 128), -(-columns // 128))
                fours[f"{weight}_blocks"] = octets(1, rows, columns // 32, 16)
                fours[f"{weight}_scales"] = octets(1, rows, columns // 32)
        methods = {"FP8": {"quant_method": "fp8"}, "MXFP4": {"quant_method": "mxfp4"}}
        for form, tensors in (("bfloat16", plain), ("FP8", blocks), ("MXFP4", fours)):
            place = folder / f"{form}-{seed}"
            place.mkdir()
            save_file(tensors, place / "model.safetensors")
            more = {"quantization_config": methods[form]} if form in methods else {}
            (place / "config.json").write_text(json.dumps(config | more))
            forms[form].append(place)
    return forms


def merging(folder: Path) -> None:
    forms = save_models(folder)
    recipes = {}
    for form, (base, tuned) in forms.items():
        entries = [{"model": str(tuned), "parameters": {"weight": 1.0, "density": 0.5}}]
        content = {"merge_method": "ties", "base_model": str(base), "models": entries, "dtype": "bfloat16"}
        recipes[form] = folder / f"{form}.yml"
        recipes[form].write_text(yaml.safe_dump(content))
    runs: dict[str, list] = {form: [] for form in forms}
    for round_number in range(4):
        for form, recipe in recipes.items():
            shutil.rmtree(folder / "out", ignore_errors=True)
            command = [sys.executable, "-m", "weightsmith", "merge", str(recipe), str(folder / "out"), "--quiet"]
            measured = measure(command)
            if round_number:
                runs[form].append(measured)
    print(f"\nTIES of two models of {LAYERS * (2 * SIZE + HIDDEN) * HIDDEN / 1e6:.0f} M parameters, whole processes:\n")
    print("| models | seconds | peak memory | beside bfloat16 |\n| --- | ---: | ---: | ---: |")
    plain = statistics.median(run.peak for run in runs["bfloat16"])
    for form, measured_runs in runs.items():
        wall = statistics.median(run.wall for run in measured_runs)
        peak = statistics.median(run.peak for run in measured_runs)
        print(f"| {form} | {wall:.1f} | {peak / 1e6:.0f} MB | {(peak - plain) / 1e6:+.0f} MB |")


def main() -> None:
    torch.manual_seed(0)
    print(where())
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        merging(Path(folder))
        decoding(Path(folder))


if __name__ == "__main__":
    main()
