"""Our GGUF reader against llama.cpp's own Python package, and against damaged files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import examples
from weightsmith.checkpoint.dtypes import as_array
from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import CheckpointError

KINDS = [gguf.GGMLQuantizationType[k] for k in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")]
ONE_FILE = examples(150, files=True)


def write(path: Path, kinds: list[gguf.GGMLQuantizationType]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_array("words", ["a", "bé", ""])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_bool("yes", True)
    writer.add_float32("half", 0.5)
    generator = np.random.default_rng(0)
    for i, kind in enumerate(kinds):
        values = generator.standard_normal((3, 64), dtype=np.float32)
        writer.add_tensor(f"t{i}", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "sample.gguf"
    write(path, KINDS)
    return path


def test_metadata(sample: Path) -> None:
    found = GGUFFile(sample).metadata
    assert (found["words"], found["numbers"], found["yes"], found["half"]) == (["a", "bé", ""], [1, 2, 3], True, 0.5)
    assert (found["general.architecture"], found["llama.block_count"]) == ("llama", 2)


@ONE_FILE
@given(st.lists(st.text(max_size=9), min_size=1, max_size=40), st.integers(32, 200))
def test_texts_wherever_a_piece_of_the_file_ends(tmp_path: Path, texts: list[str], piece: int) -> None:
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_array("texts", texts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weightsmith.checkpoint.formats.gguf_file._HEADER_CHUNK", piece)
        assert GGUFFile(tmp_path / "t.gguf").metadata["texts"] == texts


@ONE_FILE
@given(st.integers(0, len(KINDS) - 1), st.data())
def test_any_range_equals_the_reference(sample: Path, number: int, data: st.DataObject) -> None:
    theirs = gguf.GGUFReader(sample).tensors[number]
    want = torch.from_numpy(gguf.quants.dequantize(theirs.data, theirs.tensor_type).astype(np.float32)).flatten()
    start = data.draw(st.integers(0, len(want)))
    stop = data.draw(st.integers(start, len(want)))
    out = torch.empty(stop - start)
    GGUFFile(sample).read(f"t{number}", start, stop, as_array(out))
    assert torch.equal(out, want[start:stop])


@ONE_FILE
@given(st.data())
def test_a_damaged_file_is_read_or_refused(sample: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(sample.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        file = GGUFFile(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        return
    for name, info in file.tensors.items():
        if info.numel < 1 << 20:
            file.read(name, 0, info.numel, as_array(torch.empty(info.numel)))


@pytest.mark.parametrize("count", [0, 3, 4, 20, 24, 200])
def test_cut_short(count: int, sample: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(sample.read_bytes()[:count])
    with pytest.raises(CheckpointError, match=r"cut\.gguf"):
        GGUFFile(tmp_path / "cut.gguf")
