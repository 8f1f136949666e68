"""Families whose prompts Ollama writes, and whose answers it reads, by code of its own: without it, tool calls and
thinking are lost (`ollama_families.json`, from model/renderers and model/parsers of https://github.com/ollama/ollama).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True)
class OllamaFamily:
    """`renderer` and `parser`: what Ollama calls its code; `requires`: the first version that has it, where known. It
    is for models of `model_types` whose chat template `has` all of the first texts and `lacks` the others."""

    model_types: tuple[str, ...]
    has: tuple[str, ...]
    parser: str
    renderer: str | None = None
    requires: str | None = None
    lacks: tuple[str, ...] = ()

    def fits(self, model_types: set[str], template: str) -> bool:
        """Whether a model is one of the family, and still talks as the family does."""
        return (
            not model_types.isdisjoint(self.model_types)
            and all(text in template for text in self.has)
            and not any(text in template for text in self.lacks)
        )


def family_of(config: Mapping[str, Any], template: str | None) -> OllamaFamily | None:
    """The family of a model, by its config.json and chat template; None where Ollama has nothing for it.

    >>> family_of({"model_type": "qwen3_moe"}, "<tool_call>\\n<function=name>").renderer
    'qwen3-coder'
    """
    if not template:
        return None
    text = config.get("text_config")
    parts = [config, text if isinstance(text, Mapping) else {}]
    model_types = {part["model_type"] for part in parts if isinstance(part.get("model_type"), str)}
    return next((family for family in known_families() if family.fits(model_types, template)), None)


@cache
def known_families() -> tuple[OllamaFamily, ...]:
    """All of them; the first that fits counts."""
    content = files("weightsmith.gguf.companions").joinpath("ollama_families.json").read_text(encoding="utf-8")
    return TypeAdapter(tuple[OllamaFamily, ...]).validate_json(content)
