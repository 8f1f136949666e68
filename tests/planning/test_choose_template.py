"""A chat template whose signs the vocabulary lacks."""

from __future__ import annotations

from pathlib import Path

import weightsmith as ws


def recipe(models: Path, template: str) -> dict:
    entries = [{"model": str(models / name), "parameters": {"weight": 0.5}} for name in "ab"]
    return {"merge_method": "linear", "models": entries, "chat_template": template, "dtype": "float32"}


def test_signs_that_are_no_tokens_are_told(chat_models: Path) -> None:
    """SmolLM2 has ChatML's signs, and not Llama 3's."""
    (about,) = [text for text in ws.plan(recipe(chat_models, "llama3")).warnings if "chat template" in text]
    assert "<|start_header_id|>, " in about and "tokenizer_source: union" in about
    for known in ("chatml", "auto", "mistral", "{{ messages[0].content }}"):
        assert not any("chat template" in text for text in ws.plan(recipe(chat_models, known)).warnings)
