"""Tokenizers rebuilt from GGUF metadata against llama.cpp itself, on any text."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from tests.fuzzing import examples
from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.errors import CheckpointError
from weightsmith.llama_cpp import load_llama_cpp
from weightsmith.tokenizer.gguf_tokenizer import tokenizer_from_gguf

NAMES = json.loads((resources.files("weightsmith.tokenizer") / "pre_tokenizers.json").read_text())["names"]
SPECIAL = ["<unk>", "<s>", "</s>"]
PIECES = [
    "don't",
    "I'LL",
    " we're",
    "2025-06-08",
    "1234567",
    " 42",
    "\n",
    "\n\n  ",
    "\t",
    "   ",
    "x",
    " word",
    "naïve",
    "Überraschung",
    "日本語",
    "🙂",
    "a_b",
    "...",
    "!?\n",
    "f(x)=2",
    "<s>",
    "\r\n",
    "٣",
    "½",
]
TEXTS = st.lists(
    st.sampled_from(PIECES)
    | st.text(st.characters(codec="utf-8", max_codepoint=0x2FF, exclude_characters="\x00"), max_size=6),
    max_size=8,
).map("".join)
ANY = examples(150, files=True)


class LlamaCppVocabulary:
    """Tokenization by llama.cpp from the vocabulary of a GGUF file alone."""

    def __init__(self, path: Path) -> None:
        self._lib = load_llama_cpp()
        parameters = self._lib.llama_model_default_params()
        parameters.vocab_only = True
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), parameters)
        assert self._model
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)

    def encode(self, text: str, *, add: bool = False) -> list[int]:
        raw = text.encode()
        out = (self._lib.llama_token * (len(raw) + 16))()
        count = self._lib.llama_tokenize(self._vocabulary, raw, len(raw), out, len(out), add, True)
        assert count >= 0
        return out[:count]

    def __del__(self) -> None:
        self._lib.llama_model_free(self._model)


def base_writer(path: Path, pre: str | None, kind: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(kind)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return writer


def close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_level_file(path: Path, pre: str) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [" ".join(PIECES) + str(i * 7919) + " don't we're words 日本語" for i in range(200)], trainer
    )
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = base_writer(path, pre, "gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in SPECIAL else 1 for t in tokens])
    writer.add_token_merges([" ".join(m) for m in model["merges"]])
    close(writer)
    return path


def sentencepiece_file(path: Path, *, prefix: bool) -> Path:
    words = [
        "▁",
        "▁t",
        "h",
        "e",
        "t",
        "▁th",
        "▁the",
        "a",
        "an",
        "n",
        "▁a",
        "nd",
        "d",
        "▁an",
        "▁and",
        "he",
        "o",
        "r",
        "or",
        "é",
        "in",
        "i",
        "ing",
        "ng",
        "g",
        "▁w",
        "w",
        "▁wor",
        "rd",
        "▁word",
        "s",
        "1",
        "2",
        "12",
    ]
    tokens = SPECIAL + [f"<0x{n:02X}>" for n in range(256)] + words
    writer = base_writer(path, None, "llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(words))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(words))
    writer.add_add_space_prefix(prefix)
    close(writer)
    return path


@pytest.fixture(scope="module", params=sorted(NAMES))
def byte_level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    path = byte_level_file(tmp_path_factory.mktemp("vocabulary") / "bpe.gguf", request.param)
    return tokenizer_from_gguf(GGUFFile(path))[0], LlamaCppVocabulary(path)


@ANY
@given(TEXTS)
def test_byte_level_like_llama_cpp(byte_level, text: str) -> None:
    ours, reference = byte_level
    ids = ours.encode(text, add_special_tokens=False).ids
    assert ids == reference.encode(text)
    assert ours.decode(ids, skip_special_tokens=False) == text


def test_the_begin_token_like_llama_cpp(byte_level) -> None:
    ours, reference = byte_level
    assert ours.encode("word").ids == reference.encode("word", add=True)


@pytest.fixture(scope="module", params=[True, False])
def sentencepiece(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    path = sentencepiece_file(tmp_path_factory.mktemp("vocabulary") / "spm.gguf", prefix=request.param)
    return tokenizer_from_gguf(GGUFFile(path))[0], LlamaCppVocabulary(path)


@ANY
@given(st.text("the and or wording 12é日 \n", min_size=1, max_size=30))
def test_sentencepiece_like_llama_cpp(sentencepiece, text: str) -> None:
    ours, reference = sentencepiece
    ids = ours.encode(text, add_special_tokens=False).ids
    assert ids == reference.encode(text)
    assert ours.decode(ids) == text
    assert ours.encode(text).ids == reference.encode(text, add=True)


def test_smollm(smollm: Path) -> None:
    tokenizer, config = tokenizer_from_gguf(GGUFFile(smollm))
    reference = LlamaCppVocabulary(smollm)
    for text in ("".join(PIECES), "<|im_start|>user\nWrite 2075-06-08 & don't stop<|im_end|>\n", "a" * 300):
        assert tokenizer.encode(text).ids == reference.encode(text)
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert isinstance(tokenizer.get_added_tokens_decoder()[1], AddedToken)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("tokenizer.ggml.pre", "tekken", "pre-tokenizer is 'tekken'"),
        ("tokenizer.ggml.model", "bert", "has the type 'bert'"),
        ("tokenizer.ggml.tokens", None, "tokens is not a list"),
        ("tokenizer.ggml.token_type", [1], "have 1 types"),
        ("tokenizer.ggml.merges", ["xx yy"], "do not fit"),
        ("tokenizer.ggml.merges", ["xx"], "not a pair"),
    ],
)
def test_what_cannot_be_rebuilt(key: str, value: object, message: str, tmp_path: Path) -> None:
    file = GGUFFile(byte_level_file(tmp_path / "bpe.gguf", "gpt-2"))
    file.metadata[key] = value
    with pytest.raises(CheckpointError, match=message):
        tokenizer_from_gguf(file)
