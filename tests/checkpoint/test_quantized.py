"""Quantized weights are decoded to the values that each format's own library computes, for any range of elements."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.checkpoint.quantized_samples import SAMPLES, Sample, bitsandbytes_4bit, fp8, gptq
from weightsmith.checkpoint.checkpoint import Checkpoint, read_tensor
from weightsmith.checkpoint.views import transposed_panels
from weightsmith.checkpoint.views.quantized.find_quantized import decode_quantized
from weightsmith.checkpoint.weights_folder import WeightsFolder
from weightsmith.errors import CheckpointError


def open_sample(folder: Path, sample: Sample) -> tuple[Checkpoint, str | None]:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in sample.tensors.items()}, folder / "model.safetensors")
    view, title, _ = decode_quantized(WeightsFolder(folder), {"quantization_config": sample.config}, folder)
    return view, title


@pytest.mark.parametrize("format_name", SAMPLES)
def test_each_format_has_its_own_librarys_values(format_name: str, tmp_path: Path) -> None:
    sample = SAMPLES[format_name]()
    view, title = open_sample(tmp_path, sample)
    assert list(view.tensors) == [sample.name]
    assert view.tensors[sample.name].dtype == "BF16"
    assert title
    decoded = read_tensor(view, sample.name, torch.float32)
    torch.testing.assert_close(decoded, sample.values, rtol=sample.tolerance, atol=0)


@pytest.mark.parametrize("format_name", SAMPLES)
def test_any_range_is_that_range_of_the_whole(format_name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(transposed_panels, "_PANEL_BYTES", 128)  # several panels, several strips
    monkeypatch.setattr(transposed_panels, "_STRIP_BYTES", 256)
    sample = SAMPLES[format_name]()
    view, _ = open_sample(tmp_path, sample)
    whole = read_tensor(view, sample.name, torch.float32).reshape(-1).numpy()
    torch.testing.assert_close(torch.from_numpy(whole), sample.values.reshape(-1), rtol=sample.tolerance, atol=0)

    @given(st.data())
    def check(data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        values = np.empty(stop - start, np.float32)
        view.read(sample.name, start, stop, values)
        assert (values == whole[start:stop]).all()

    check()
    in_bfloat16 = read_tensor(view, sample.name)
    assert torch.equal(in_bfloat16.reshape(-1), torch.from_numpy(whole).bfloat16())


def test_a_last_block_may_reach_beyond_the_weight(tmp_path: Path) -> None:
    """Three blocks of four elements for a weight of ten, by hand."""
    table = torch.arange(16, dtype=torch.float32)
    state = {"quant_type": "nf4", "blocksize": 4, "dtype": "float32", "shape": [2, 5]}
    tensors = {
        "a.weight": torch.tensor([0x12, 0x34, 0x56, 0x78, 0x9A], dtype=torch.uint8).reshape(-1, 1),
        "a.weight.absmax": torch.tensor([1.0, 10.0, 100.0]),
        "a.weight.quant_map": table,
        "a.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }
    view, _ = open_sample(tmp_path, Sample(tensors, {"quant_method": "bitsandbytes"}, table))
    assert read_tensor(view, "a.weight", torch.float32).tolist() == [[1, 2, 3, 4, 50], [60, 70, 80, 900, 1000]]


def test_low_four_bits_come_first_in_mxfp4_and_experts_are_transposed(tmp_path: Path) -> None:
    blocks = torch.zeros(1, 2, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0, 0], blocks[0, 1, 0, 1] = 0x21, 0xF3  # 0.5 and 1; 1.5 and -6
    tensors = {"e_blocks": blocks, "e_scales": torch.tensor([[[128], [126]]], dtype=torch.uint8)}
    view, _ = open_sample(tmp_path, Sample(tensors, {"quant_method": "mxfp4"}, blocks))
    decoded = read_tensor(view, "e", torch.float32)
    assert decoded.shape == (1, 32, 2)
    assert decoded[0, :4].tolist() == [[1, 0], [2, 0], [0, 0.75], [0, -3]]


def test_eight_bit_floats_without_scales_are_their_values(tmp_path: Path) -> None:
    codes = torch.randn(6, 10).to(torch.float8_e4m3fn)
    save_file({"a.weight": codes}, tmp_path / "model.safetensors")
    view, title, _ = decode_quantized(WeightsFolder(tmp_path), {}, tmp_path)
    assert title == "FP8 without scales"
    assert torch.equal(read_tensor(view, "a.weight", torch.float32), codes.float())


def test_a_file_of_gptq_settings_beside_config_json_is_read(tmp_path: Path) -> None:
    sample = gptq(4)
    save_file(sample.tensors, tmp_path / "model.safetensors")
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "desc_act": False}))
    view, title, _ = decode_quantized(WeightsFolder(tmp_path), {}, tmp_path)
    assert title == "GPTQ, 4 bit"
    assert torch.equal(read_tensor(view, "a.weight", torch.float32), sample.values)


def without(name: str) -> Callable[[Sample], None]:
    return lambda sample: sample.tensors.pop(name)


def reshaped(name: str, *shape: int) -> Callable[[Sample], None]:
    def change(sample: Sample) -> None:
        sample.tensors[name] = torch.zeros(shape, dtype=sample.tensors[name].dtype)

    return change


def configured(**settings: object) -> Callable[[Sample], None]:
    return lambda sample: sample.config.update(settings)


REFUSED = {
    "a format nobody decodes": ("FP8 tiles", configured(quant_method="aqlm"), "quantized by 'aqlm'"),
    "MLX, which names none": (
        "packed int4",
        lambda sample: (sample.config.clear(), sample.config.update(bits=4, group_size=64)),
        "quantized by 'MLX'",
    ),
    "no method at all": ("AWQ", lambda sample: sample.config.clear(), "has no quant_method"),
    "FP8 without its scales": ("FP8 tiles", without("a.weight_scale_inv"), "its scales (a.weight_scale_inv"),
    "a grid that does not fit": ("FP8 tiles", reshaped("a.weight_scale_inv", 5, 2), "does not fit the weight"),
    "a block size that is none": ("FP8 tiles", configured(weight_block_size="all"), "block size"),
    "GPTQ of 3 bits": ("GPTQ 4", reshaped("a.qzeros", 3, 9), "no GPTQ of 2, 4 or 8 bits"),
    "GPTQ for marlin": ("GPTQ 4", configured(checkpoint_format="marlin"), "'marlin'"),
    "GPTQ without zeros": ("GPTQ 4", without("a.qzeros"), "'a.qzeros' is not"),
    "AWQ for vectors": ("AWQ", configured(version="gemv"), "'gemv'"),
    "AWQ of other shapes": ("AWQ", reshaped("a.qzeros", 3, 7), "not AWQ's gemm version"),
    "MXFP4 without exponents": ("MXFP4", without("mlp.experts.gate_up_proj_scales"), "MXFP4 experts are"),
    "nf4 without its table": ("nf4", without("a.weight.quant_map"), "'a.weight.quant_map' with 16 elements"),
    "nf4 of another size": ("nf4", reshaped("a.weight", 7, 1), "needs 'a.weight'"),
    "int8 in a layout of a GPU": (
        "int8 rows",
        lambda sample: sample.tensors.update({"a.weight_format": torch.tensor(2, dtype=torch.uint8)}),
        "layout 2 of a GPU",
    ),
    "sparse": ("packed int4", configured(format="sparse-24-bitmask"), "'sparse-24-bitmask'"),
    "packed with no shape": ("packed int4", without("a.weight_shape"), "'a.weight_shape' is not"),
    "packed with a wrong shape": (
        "packed int4",
        lambda sample: sample.tensors.update({"a.weight_shape": torch.tensor([72, 10_000])}),
        "says [72, 10000]",
    ),
    "packed int3": (
        "packed int4",
        lambda sample: sample.tensors.update({"a.weight_shape": torch.tensor([72, 256])}),
        "no packing of 2, 4 or 8 bits",
    ),
    "int4 by the Model Optimizer": ("Model Optimizer NVFP4", configured(quant_algo="W4A16_AWQ"), "W4A16_AWQ"),
    "NVFP4 without its second scale": ("Model Optimizer NVFP4", without("a.weight_scale_2"), "a.weight_scale_2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_decoded_is_refused_in_true_words(case: str, tmp_path: Path) -> None:
    format_name, change, words = REFUSED[case]
    sample = SAMPLES[format_name]()
    change(sample)
    with pytest.raises(CheckpointError) as refusal:
        open_sample(tmp_path, sample)
    assert words in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


@given(text=st.binary(max_size=120) | st.text(max_size=60).map(str.encode))
def test_no_description_of_a_weight_is_trusted(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    sample = bitsandbytes_4bit("nf4", nested=False)
    sample.tensors["a.weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text or b"{"), dtype=torch.uint8)
    with pytest.raises(CheckpointError):
        open_sample(tmp_path_factory.mktemp("state"), sample)


def test_opening_a_quantized_model_does_not_import_torch(tmp_path: Path) -> None:
    sample = fp8("float32")
    save_file(sample.tensors, tmp_path / "model.safetensors")
    code = (
        "import sys; from pathlib import Path\n"
        "from weightsmith.checkpoint.views.quantized.find_quantized import decode_quantized\n"
        "from weightsmith.checkpoint.weights_folder import WeightsFolder\n"
        f"decode_quantized(WeightsFolder(Path({str(tmp_path)!r})), {{}}, Path({str(tmp_path)!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
