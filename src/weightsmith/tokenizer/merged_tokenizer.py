"""The tokenizer of a merged model whose vocabulary is not just one input's."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from weightsmith.errors import PlanError
from weightsmith.files.inputs.read_input import MAX_TOKENIZER_BYTES, read_text
from weightsmith.models.model import Model
from weightsmith.tokenizer.alignment import Alignment
from weightsmith.tokenizer.cut_tokenizer import cut_tokenizer
from weightsmith.tokenizer.model_template import write_template
from weightsmith.tokenizer.sentencepiece.sentencepiece_file import write_tokenizer_json
from weightsmith.tokenizer.tokenizer_files import write_tokenizer_files


def tokenizer_model(home: Model, vocabulary: Alignment | None) -> Model:
    """The model whose tokenizer an output gets: `home`, which gives its configuration, where no vocabulary is asked
    for."""
    return vocabulary.home if vocabulary else home


def write_merged_tokenizer(home: Model, vocabulary: Alignment | None, chat_template: str | None, folder: Path) -> None:
    """Tokenizer, chat template and generation settings of a merge whose configuration is that of `home`;
    `chat_template`: instead of the tokenizer's own. Raises PlanError."""
    write_tokenizer_files(tokenizer_model(home, vocabulary), folder)
    if vocabulary:
        extend_tokenizer(vocabulary, folder)
    if chat_template is not None:
        write_template(folder, chat_template)


def extend_tokenizer(vocabulary: Alignment, folder: Path) -> None:
    """Add to `folder`'s tokenizer.json the tokens that other models have, under the rows they got, and remove those
    that have no row. Raises PlanError where the tokenizer cannot be changed so."""
    if not vocabulary.added and vocabulary.cut_to is None:
        return
    path = folder / "tokenizer.json"
    if not path.exists() and (folder / "tokenizer.model").exists():
        write_tokenizer_json(folder / "tokenizer.model", path)
    if not path.exists():
        raise PlanError(
            f"{vocabulary.home.reference}: has no tokenizer.json or tokenizer.model, which the requested "
            "vocabulary needs; save it with "
            "transformers' AutoTokenizer first"
        )
    text = read_text(path, limit=MAX_TOKENIZER_BYTES)
    if vocabulary.cut_to is not None:
        text = cut_tokenizer(text, vocabulary.cut_to, vocabulary.home.reference)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library has no class of its own for it
        raise PlanError(f"{vocabulary.home.reference}: its tokenizer.json cannot be changed: {error}") from error
    for entry in vocabulary.added:
        options = {
            key: entry[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special") if key in entry
        }
        tokenizer.add_tokens([tokenizers.AddedToken(entry["content"], **options)])
        if tokenizer.token_to_id(entry["content"]) != entry["id"]:
            raise PlanError(
                f"{vocabulary.home.reference}: its tokenizer gives {entry['content']!r} the row "
                f"{tokenizer.token_to_id(entry['content'])}, not {entry['id']}: its own tokens leave gaps between "
                "their rows"
            )
    tokenizer.save(str(path))
    for name in (
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "tokenizer.model",
    ):  # they describe the old vocabulary
        (folder / name).unlink(missing_ok=True)
