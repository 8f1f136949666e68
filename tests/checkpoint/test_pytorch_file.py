"""PyTorch files, read against torch's own writer; and files that ask for code."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tests.conftest import weightsmith_process
from tests.fuzzing import examples
from weightsmith.checkpoint.checkpoint import read_tensor
from weightsmith.checkpoint.dtypes import as_array
from weightsmith.checkpoint.formats.pytorch_file import PyTorchFile
from weightsmith.checkpoint.weights_folder import WeightsFolder
from weightsmith.errors import CheckpointError

SHAPES = st.lists(st.integers(0, 5), min_size=0, max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float64])
SAVED = examples(60, files=True)


@SAVED
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(str.isprintable),
        st.tuples(SHAPES, DTYPES, st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_reads_what_torch_wrote(tmp_path: Path, spec: dict, data: st.DataObject) -> None:
    weights = {}
    for name, (shape, dtype, transposed) in spec.items():
        value = (torch.randn(shape) * 4).to(dtype)
        weights[name] = value.T if transposed and len(shape) == 2 else value
    torch.save(weights, tmp_path / "w.bin")
    file = PyTorchFile(tmp_path / "w.bin")
    assert file.tensors.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(read_tensor(file, name), value)
        start = data.draw(st.integers(0, value.numel()))
        stop = data.draw(st.integers(start, value.numel()))
        part = torch.empty(stop - start, dtype=value.dtype)
        file.read(name, start, stop, as_array(part))
        assert torch.equal(part, value.reshape(-1)[start:stop])


@SAVED
@given(st.data())
def test_damage_is_one_message(tmp_path: Path, data: st.DataObject) -> None:
    """Any change to the file is either harmless to the description, or a CheckpointError."""
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.nn.Parameter(torch.ones(3))}, tmp_path / "w.bin")
    whole = bytearray((tmp_path / "w.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    (tmp_path / "w.bin").write_bytes(whole[: cut if data.draw(st.booleans()) else len(whole)])
    try:
        file = PyTorchFile(tmp_path / "w.bin")
        for name in file.tensors:
            read_tensor(file, name)
    except CheckpointError as error:
        assert "w.bin" in str(error)


class Attack:
    def __reduce__(self):
        return os.system, ("touch was-run",)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_and_not_run(tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("evil.bin", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"w": Attack()}, protocol))
    with pytest.raises(
        CheckpointError, match=r"asks for (posix|nt|os)\.system, which weights do not need and which is not run"
    ):
        PyTorchFile(Path("evil.bin"))
    assert not Path("was-run").exists()


def test_states_of_training_and_tied_weights(tmp_path: Path) -> None:
    weights = {"wte.weight": torch.randn(4, 3)}
    weights["lm_head.weight"] = weights["wte.weight"]
    torch.save({"model": weights, "step": 3, "optimizer": {"state": {}}, "dtype": torch.float32}, tmp_path / "ckpt.pt")
    file = PyTorchFile(tmp_path / "ckpt.pt")
    assert set(file.tensors) == set(weights) and file.aliases == {"lm_head.weight": "wte.weight"}


def test_strides_and_old_files_say_what_to_do(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(12.0).reshape(3, 4)[:, ::2]}, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match="'w' is stored with the strides"):
        PyTorchFile(tmp_path / "w.bin")
    torch.save({"w": torch.ones(2)}, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="weights_only=True"):
        PyTorchFile(tmp_path / "w.bin")


def test_shards_with_an_index_and_trainer_files(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.ones(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    index = {"weight_map": {n: f"pytorch_model-0000{i}-of-00002.bin" for i, n in enumerate("ab", start=1)}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (tmp_path / "training_args.bin").write_bytes(b"code")
    assert set(WeightsFolder(tmp_path).tensors) == {"a", "b"}
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    done = weightsmith_process("unify", tmp_path, tmp_path / "out")
    assert done.returncode == 2 and "config.json" in done.stderr
    (tmp_path / "config.json").write_text("{}")
    done = weightsmith_process("unify", tmp_path, tmp_path / "out")
    assert (
        done.returncode == 2 and "names the shard pytorch_model-00002-of-00002.bin, which is not there" in done.stderr
    )
