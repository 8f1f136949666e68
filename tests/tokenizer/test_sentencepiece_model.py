"""tokenizer.model rebuilt from tokenizer.json: SentencePiece itself cuts every text as it did with the original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from tests.fuzzing import examples
from tests.tiny_tokenizer import TEXT, save_sentencepiece, save_tokenizer
from weightsmith.gguf.conversion.added_tokens import list_added_tokens
from weightsmith.tokenizer.sentencepiece.sentencepiece_model import restore_sentencepiece


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[SentencePieceProcessor, SentencePieceProcessor, Path]:
    folder = tmp_path_factory.mktemp("llama")
    save_sentencepiece(folder, 384, gemma=False)
    original = SentencePieceProcessor(str(folder / "tokenizer.model"))
    assert not restore_sentencepiece(folder)
    (folder / "tokenizer.model").unlink()
    assert restore_sentencepiece(folder)
    return original, SentencePieceProcessor(str(folder / "tokenizer.model")), folder


@examples(200)
@given(text=st.text() | st.sampled_from(TEXT.splitlines()))
def test_the_same_tokens(both: tuple[SentencePieceProcessor, SentencePieceProcessor, Path], text: str) -> None:
    original, restored, _ = both
    assert restored.encode(text) == original.encode(text)


def test_what_kind_each_token_is(both: tuple[SentencePieceProcessor, SentencePieceProcessor, Path]) -> None:
    original, restored, _ = both
    assert len(original) == 384 and len(restored) == 387  # and the three of the chat format
    for row in range(384):
        assert restored.id_to_piece(row) == original.id_to_piece(row)
        for kind in ("is_unknown", "is_control", "is_byte", "is_unused"):
            assert getattr(restored, kind)(row) == getattr(original, kind)(row), (row, kind)
    assert restored.id_to_piece(386) == "<|end|>" and restored.is_control(386)
    assert (restored.unk_id(), restored.bos_id(), restored.eos_id()) == (0, 1, 2)


def test_byte_level_tokenizers_have_none(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert not restore_sentencepiece(tmp_path)
    assert not (tmp_path / "tokenizer.model").exists()


def test_added_tokens_are_told(both: tuple[SentencePieceProcessor, SentencePieceProcessor, Path]) -> None:
    *_, folder = both
    path = folder / "tokenizer_config.json"
    assert "added_tokens_decoder" not in json.loads(path.read_text())
    list_added_tokens(folder)
    added_tokens = json.loads(path.read_text())["added_tokens_decoder"]
    assert added_tokens["386"]["content"] == "<|end|>" and added_tokens["386"]["special"]
    before = path.read_bytes()
    list_added_tokens(folder)
    assert path.read_bytes() == before
