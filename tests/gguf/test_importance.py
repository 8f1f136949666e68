"""Importance matrices: computed by llama.cpp as transformers sees the same activations, written, read, and used."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightsmith
from tests.conftest import weightsmith_process
from tests.fuzzing import examples
from tests.gguf.test_families import FEW_HEADS, save_model
from tests.tiny_tokenizer import TEXT
from weightsmith.errors import ExportError, WeightsmithError
from weightsmith.gguf.quantization.calibration import CHUNK
from weightsmith.gguf.quantization.importance import Importance, read_importance

CHUNKS = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(
        "llama", FEW_HEADS | {"max_position_embeddings": 1024}, tmp_path_factory.mktemp("calibrated") / "m"
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "readme.txt"
    path.write_text(TEXT[:6000], encoding="utf-8")
    return path


def test_sums_are_those_of_transformers(model: Path, text: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = weightsmith_process("export", model, tmp_path / "out", "-t", "iq2_xxs", "--calibrate", text)
    assert done.returncode == 0, done.stderr
    matrix = read_importance(tmp_path / "out" / "m-imatrix.gguf")
    live = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(model)(text.read_text(), return_tensors="pt", verbose=False)["input_ids"][0]
    assert (
        matrix.chunks == len(ids) // CHUNK >= CHUNKS and matrix.dataset == "readme.txt" and matrix.chunk_size == CHUNK
    )
    sums: dict[str, np.ndarray] = {}

    def hook(name: str):
        def note(module, inputs, output) -> None:
            squares = (inputs[0][0].double() ** 2).sum(0).numpy()
            sums[name] = sums.get(name, 0) + squares

        return note

    layer = live.model.layers[1]
    for name, module in (
        ("attn_q", layer.self_attn.q_proj),
        ("attn_output", layer.self_attn.o_proj),
        ("ffn_down", layer.mlp.down_proj),
    ):
        module.register_forward_hook(hook(f"blk.1.{name}.weight"))
    with torch.no_grad():
        for chunk in range(matrix.chunks):
            live(ids[None, chunk * CHUNK : (chunk + 1) * CHUNK])
    for name, expected in sums.items():
        assert matrix.counts[name].tolist() == [matrix.chunks * CHUNK]
        np.testing.assert_allclose(matrix.sums[name][0], expected, rtol=0.03, atol=expected.max() * 1e-3)


@pytest.mark.more
def test_computed_once_and_used(model: Path, text: Path, tmp_path: Path) -> None:
    plain = weightsmith.export(model, tmp_path / "plain", types="q4_k_m").files[0].path.read_bytes()
    done = weightsmith.export(model, tmp_path / "out", types="q4_k_m", calibrate=text)
    matrix = tmp_path / "out" / "m-imatrix.gguf"
    assert done.files[0].path.read_bytes() != plain
    before = matrix.stat().st_mtime_ns
    weightsmith.export(model, tmp_path / "out", types=["q4_k_m", "q3_k_m"], calibrate=text)
    assert matrix.stat().st_mtime_ns == before
    given_ = weightsmith.export(model, tmp_path / "given", types="q4_k_m", imatrix=matrix)
    assert given_.files[0].path.read_bytes() == done.files[0].path.read_bytes()
    with pytest.raises(ExportError, match="iq2_xxs needs an importance matrix"):
        weightsmith.export(model, tmp_path / "without", types="iq2_xxs")
    assert not (tmp_path / "without").exists()


@pytest.mark.more
def test_texts_that_cannot_be_used(model: Path, tmp_path: Path) -> None:
    for content, message in (
        (b"", "is empty"),
        (b"\xff\xfe\xff", "cannot be read as UTF-8"),
        (b"short", "at least 512 are needed"),
    ):
        (tmp_path / "t.txt").write_bytes(content)
        result = weightsmith_process(
            "export", model, tmp_path / "out", "-t", "q4_k_m", "--calibrate", tmp_path / "t.txt"
        )
        assert result.returncode == 2 and message in result.stderr, result.stderr


ENTRIES = st.dictionaries(
    st.text("abc.0123", min_size=1, max_size=12),
    st.tuples(st.integers(1, 3), st.integers(1, 9)),
    min_size=1,
    max_size=4,
)


@examples(40)
@given(ENTRIES, st.integers(0, 2**31 - 1))
def test_written_and_read(entries: dict[str, tuple[int, int]], chunks: int) -> None:
    import tempfile

    random = np.random.default_rng(0)
    sums = {name: random.random(shape).astype(np.float32) for name, shape in entries.items()}
    counts = {name: random.random(shape[0]).astype(np.float32) for name, shape in entries.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imatrix.gguf"
        Importance(sums, counts, "a text", chunks, 512).write(path)
        matrix = read_importance(path)
    assert matrix.sums.keys() == sums.keys() and (matrix.dataset, matrix.chunks, matrix.chunk_size) == (
        "a text",
        chunks,
        512,
    )
    for name in sums:
        assert np.array_equal(matrix.sums[name], sums[name]) and np.array_equal(matrix.counts[name], counts[name])


def binary(sums: dict[str, np.ndarray]) -> bytes:
    out = struct.pack("<i", len(sums))
    for name, values in sums.items():
        out += (
            struct.pack(f"<i{len(name)}sii", len(name), name.encode(), 5, len(values)) + values.astype("<f4").tobytes()
        )
    return out + struct.pack("<ii4s", 7, 4, b"text")


def test_the_older_files(tmp_path: Path) -> None:
    whole = binary({"blk.0.attn_q.weight": np.arange(8.0), "blk.0.ffn_up.weight": np.ones(4)})
    path = tmp_path / "imatrix.dat"
    path.write_bytes(whole)
    matrix = read_importance(path)
    assert (matrix.chunks, matrix.dataset) == (7, "text")
    assert matrix.sums["blk.0.attn_q.weight"].tolist() == [list(range(8))]
    entries = matrix.entries()
    assert entries[0].name == b"blk.0.attn_q.weight" and entries[0].data[:3] == pytest.approx([0.0, 0.2, 0.4])
    assert entries[2].name is None
    for length in range(len(whole) - 12):
        path.write_bytes(whole[:length])
        with pytest.raises(ExportError, match="not an importance matrix"):
            read_importance(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    Importance(
        {"blk.0.ffn_up.weight": np.ones((2, 8), np.float32)},
        {"blk.0.ffn_up.weight": np.ones(2, np.float32)},
        "a",
        1,
        512,
    ).write(path)
    return path.read_bytes()


@examples(300)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(written: bytes, data: st.DataObject) -> None:
    """Bytes changed, or the end cut off: an importance matrix, or one message."""
    import tempfile

    content = bytearray(written if data.draw(st.booleans()) else binary({"blk.0.attn_q.weight": np.arange(8.0)}))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imatrix"
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            read_importance(path).entries()
        except WeightsmithError as error:
            assert "imatrix" in str(error)
