"""Models with different vocabularies, merged into one; mergekit is the oracle, token by token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import weightsmith
from tests.conftest import stderr_lines, weightsmith_process
from tests.mergekit_oracle import run_mergekit

WORDS = [f"w{n}" for n in range(40)]


def save(folder: Path, words: list[str], added: list[str], rows: int, seed: int, tied: bool = False) -> Path:
    """A tiny Llama with the tokens `words` and `added`, and `rows` embeddings."""
    import tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted({letter for word in words for letter in word})
    tokens = letters + [w for w in words if w not in letters]
    built: dict[str, None] = dict.fromkeys(letters)
    merges = []
    for word in words:  # each word from left to right
        for end in range(2, len(word) + 1):
            if word[:end] not in built:
                merges.append((word[: end - 1], word[end - 1]))
                built[word[:end]] = None
    tokens = [*letters, *(t for t in built if t not in letters)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in added])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=added[0]).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`; `padded`, the same tokens and more rows; `more`, two tokens added; `other`, other words in another
    order."""
    root = tmp_path_factory.mktemp("vocabularies")
    save(root / "base", WORDS, ["<s>"], 64, 0)
    save(root / "padded", WORDS, ["<s>"], 80, 1)
    save(root / "more", WORDS, ["<s>", "<tool>", "<pad>"], 64, 2)
    save(root / "other", ["zig", *WORDS[::-1][:30], "zag"], ["<s>", "<x>"], 64, 3)
    return root


def recipe(root: Path, models: tuple[str, ...], **more) -> dict:
    entries = [{"model": str(root / m), "parameters": {"weight": 0.6, "density": 0.5}} for m in models]
    method = more.pop("merge_method", "ties")
    if method == "linear":
        entries = [{"model": e["model"], "parameters": {"weight": 0.6}} for e in entries]
        return {"merge_method": "linear", "models": entries, "dtype": "float32"} | more
    return {"merge_method": method, "base_model": str(root / "base"), "models": entries, "dtype": "float32"} | more


def vocabulary(folder: Path) -> dict[str, int]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).get_vocab()


CASES = {
    "union": (("more", "other"), {"tokenizer_source": "union"}),
    "union, three": (("more", "other", "padded"), {"tokenizer_source": "union"}),
    "base": (("more", "other"), {"tokenizer_source": "base"}),
    "a model": (("more", "other"), {"tokenizer_source": "MODEL"}),
    "linear, no base": (("more", "other", "padded"), {"merge_method": "linear", "tokenizer_source": "union"}),
    "padding": (("more", "other"), {"tokenizer": {"source": "union", "pad_to_multiple_of": 32}}),
    "rules": (
        ("more", "other"),
        {
            "tokenizer": {
                "source": "union",
                "tokens": {
                    "<tool>": {"source": {"kind": "zero"}},
                    "<x>": {"source": {"kind": "model_token", "model": "MODEL", "token": "w3"}, "force": True},
                    "w1": {"source": "MODEL", "force": True},
                },
            }
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_embeddings_equal_mergekit_s(name: str, vocabularies: Path, tmp_path: Path) -> None:
    models, more = CASES[name]
    more = json.loads(json.dumps(more).replace("MODEL", str(vocabularies / "more")))
    made = recipe(vocabularies, models, **more)
    (tmp_path / "r.yml").write_text(yaml.safe_dump(made))
    weightsmith.merge(tmp_path / "r.yml", tmp_path / "ours")
    mergekit_weights = run_mergekit(made, tmp_path / "theirs")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    vocabulary_of_ours, reference = vocabulary(tmp_path / "ours"), vocabulary(tmp_path / "theirs")
    assert vocabulary_of_ours.keys() == reference.keys()
    assert ours.keys() == mergekit_weights.keys()
    rows = [torch.tensor([v[token] for token in sorted(v)]) for v in (vocabulary_of_ours, reference)]
    for key in mergekit_weights:
        a, b = ours[key], mergekit_weights[key]
        assert a.shape == b.shape, key
        if key in ("model.embed_tokens.weight", "lm_head.weight"):
            if len(a) > len(vocabulary_of_ours):
                assert torch.allclose(a[-1], b[-1], atol=1e-5)
            a, b = a[rows[0]], b[rows[1]]
        assert torch.allclose(a, b, atol=1e-6), key
    merged_config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert merged_config["vocab_size"] == len(ours["lm_head.weight"])


def test_the_merged_model_speaks_the_union(vocabularies: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe(vocabularies, ("more", "other"), tokenizer_source="union")))
    weightsmith.merge(tmp_path / "r.yml", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = tokenizer("w1 <tool> w39 <x>", return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(tokens[0]) == ["w1", "<tool>", "w39", "<x>"]
    assert model(tokens).logits.shape[-1] == len(tokenizer)


def test_different_rows_without_a_choice(vocabularies: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe(vocabularies, ("padded",))))
    done = weightsmith_process("merge", tmp_path / "r.yml", tmp_path / "out")
    assert done.returncode == 2 and len(stderr_lines(done)) == 1
    for part in (
        "the vocabularies differ: 64 rows",
        "80 in",
        "tokenizer_source: union",
        "weightsmith inspect --recipe",
    ):
        assert part in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more,message",
    [
        (
            {"tokenizer": {"source": "union", "tokens": {"nope": {"source": {"kind": "zero"}}}}},
            "'nope' is in no model's vocabulary",
        ),
        (
            {"tokenizer": {"source": "union", "tokens": {"w1": {"source": "/elsewhere"}}}},
            "is not one of the recipe's models",
        ),
        ({"tokenizer": {"source": "union"}, "tokenizer_source": "base"}, "one of 'tokenizer' and 'tokenizer_source'"),
        ({"tokenizer_source": "/elsewhere"}, "no such folder"),
        ({"tokenizer": {"sorce": "union"}}, "did you mean 'source'"),
    ],
)
def test_rules_that_cannot_be_followed(more: dict, message: str, vocabularies: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe(vocabularies, ("more",), **more)))
    done = weightsmith_process("merge", tmp_path / "r.yml", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr and len(stderr_lines(done)) == 1, done.stderr


def test_inspect_names_the_tokens(vocabularies: Path, tmp_path: Path) -> None:
    done = weightsmith_process("inspect", vocabularies / "base", vocabularies / "padded", vocabularies / "more")
    assert done.returncode == 3, done.stderr
    messages = " ".join(done.stdout.split())
    for part in (
        "64 rows in",
        "80 in",
        "rows of",
        "have no token (",
        " to 79)",
        "tokenizer_source: union (all",
        "2 tokens are only in it",
        "only in it: '<tool>'",
        "only in it: '<pad>'",
    ):
        assert part in messages, part
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe(vocabularies, ("padded",), tokenizer_source="base")))
    done = weightsmith_process("inspect", "--recipe", tmp_path / "r.yml")
    assert done.returncode == 0 and "unified by the recipe's tokenizer_source: base" in done.stdout


def test_inspect_tells_of_tokens_that_moved(vocabularies: Path) -> None:
    done = weightsmith_process("inspect", vocabularies / "base", vocabularies / "other", "--all")
    assert done.returncode == 0, done.stdout
    assert "tokens have another row" in done.stdout and "rows are merged by number; to merge by token" in done.stdout
    assert "in the base," in done.stdout


def test_models_with_sentencepiece_files_alone_are_united(tmp_path: Path) -> None:
    """No tokenizer.json: Llama 2 as it was first published, and a fine-tune with two more tokens."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.tiny_tokenizer import save_sentencepiece

    for name, rows in (("base", 400), ("chat", 402)):
        config = LlamaConfig(
            vocab_size=rows, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
        )
        LlamaForCausalLM(config).save_pretrained(tmp_path / name)
        save_sentencepiece(tmp_path / name, 400)
        (tmp_path / name / "tokenizer.json").unlink(missing_ok=True)
    (tmp_path / "chat/added_tokens.json").write_text(json.dumps({"<|user|>": 400, "<|end|>": 401}))
    entries = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("base", "chat")]
    recipe = {"merge_method": "linear", "models": entries, "tokenizer_source": "union"}
    weightsmith.merge(recipe, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    assert len(merged["model.embed_tokens.weight"]) == 402
    assert tokenizer.convert_tokens_to_ids("<|end|>") == 401
    import sentencepiece

    plain = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "base/tokenizer.model"))
    text = "The license grants 12 rights; it's free."
    assert tokenizer(text, add_special_tokens=False).input_ids == plain.encode(text)
