"""Our safetensors reader against the library, and against damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tests.fuzzing import examples
from weightsmith.checkpoint.dtypes import as_array, torch_dtypes
from weightsmith.checkpoint.formats.safetensors_file import SafetensorsFile
from weightsmith.errors import CheckpointError

# Of 8-bit floats, which torch cannot write into an array, tests/checkpoint/test_quantized.py reads all values.
DTYPES = st.sampled_from([d for name, d in torch_dtypes().items() if name != "BOOL" and not name.startswith("F8")])
SHAPES = st.lists(st.integers(0, 5), max_size=3)
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__" and n.isprintable()),
    st.tuples(DTYPES, SHAPES),
    max_size=4,
)
ONE_FILE = examples(150, files=True)


def make(spec: dict) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randint(0, 100, shape, generator=generator).to(dtype) for n, (dtype, shape) in spec.items()}


@ONE_FILE
@given(TENSORS, st.data())
def test_any_range_of_any_tensor(tmp_path: Path, spec: dict, data: st.DataObject) -> None:
    tensors = make(spec)
    path = tmp_path / "any.safetensors"
    path.write_bytes(save(tensors))
    file = SafetensorsFile(path)
    assert set(file.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert (file.tensors[name].shape, torch_dtypes()[file.tensors[name].dtype]) == (
            tuple(tensor.shape),
            tensor.dtype,
        )
        start = data.draw(st.integers(0, tensor.numel()))
        stop = data.draw(st.integers(start, tensor.numel()))
        out = torch.empty(stop - start, dtype=tensor.dtype)
        file.read(name, start, stop, as_array(out))
        assert torch.equal(out, tensor.flatten()[start:stop])


@ONE_FILE
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "random.safetensors"
    path.write_bytes(content)
    try:
        file = SafetensorsFile(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert content[8:].lstrip().startswith(b"{") and not file.tensors


@ONE_FILE
@given(TENSORS, st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, spec: dict, data: st.DataObject) -> None:
    content = bytearray(save(make(spec)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.sampled_from(list(b'0129{}[]",:-e\x00\xff'))
        )
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    for name, info in file.tensors.items():  # what was accepted can be read to its end
        out = torch.empty(info.numel, dtype=torch_dtypes()[info.dtype])
        file.read(name, 0, info.numel, as_array(out))


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}',
        "3",
        '{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[2],"data_offsets":[0,4]}',
        '{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,4]}',
    ],
)
def test_entries_that_cannot_be_true(entry: str, tmp_path: Path) -> None:
    header = f'{{"weight":{entry}}}'.encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="weight"):
        SafetensorsFile(path)
