"""A tokenizer is the one that lies there now: a notebook merges into the same folder again."""

from __future__ import annotations

import json
from pathlib import Path

from tests.hostile.builders import write_model
from weightsmith.tokenizer.load_tokenizer import load_tokenizer


def test_a_changed_tokenizer_is_loaded_again(tmp_path: Path) -> None:
    home = write_model(tmp_path / "model", 0)
    first = load_tokenizer(home)
    assert load_tokenizer(home) is first
    config = json.loads((home / "tokenizer_config.json").read_text())
    (home / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ messages[0].content }}!"}))
    second = load_tokenizer(home)
    assert second.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi!"
