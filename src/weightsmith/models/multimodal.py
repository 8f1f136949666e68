"""The language model inside a multimodal one: `model.language_model.layers.0` is `model.layers.0` of a model that only
reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo, natural_key
from weightsmith.checkpoint.views.row_mapped import RowMap, RowMappedCheckpoint, ordered
from weightsmith.errors import CheckpointError
from weightsmith.models.model import Model
from weightsmith.models.naming.left_out import OTHER_PART

_WRAPPERS = (
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model."),
)
# What today's class for a `text_config` is called, where it is not the obvious name.
_CLASSES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
    "phi": "Phi",
    "phi3": "Phi3",
    "cohere": "Cohere",
    "cohere2": "Cohere2",
    "glm": "Glm",
}
_CARRIED = ("tie_word_embeddings", "dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id")


def text_names(names: Iterable[str]) -> dict[str, str]:
    """Name alone -> name in the multimodal model, for the tensors of its language model; empty where there is no such
    part."""
    text_tensors, wrapped = {}, False
    for name in names:
        for wrapper, plain in _WRAPPERS:
            if name.startswith(wrapper):
                text_tensors[plain + name.removeprefix(wrapper)], wrapped = name, True
                break
        else:
            if name.startswith("lm_head."):
                text_tensors[name] = name
    return text_tensors if wrapped else {}


def text_config(home: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model alone. Raises CheckpointError where config.json has none."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise CheckpointError(
            f"{home}: has the names of a multimodal model, and its config.json no text_config", path=home
        )
    model_type = text.get("model_type")
    if model_type not in _CLASSES:
        raise CheckpointError(
            f"{home}: text_config.model_type is {model_type!r}, for which no class is known; known: "
            f"{', '.join(_CLASSES)}",
            path=home,
        )
    carried = {key: config[key] for key in _CARRIED if config.get(key) is not None}
    return carried | text | {"architectures": [f"{_CLASSES[model_type]}ForCausalLM"]}


def without_wrapper(
    infos: dict[str, TensorInfo], plain: dict[str, str], config: dict[str, Any], home: Path
) -> tuple[dict[str, TensorInfo], dict[str, str], dict[str, Any], list[str]]:
    """A folder that holds nothing but the language model: its tensors, their names in the files and its configuration,
    alone."""
    names = text_names(infos)
    if not names or len(names) < len(infos):
        return infos, plain, config, []
    text = text_config(home, config) if "text_config" in config else config
    notes = ["the names of a multimodal model's language part, read as a language model's"]
    return {s: infos[n] for s, n in names.items()}, {s: plain[n] for s, n in names.items()}, text, notes


def text_part(model: Model) -> Model:
    """The language model of a multimodal one, under the names it has alone. Raises CheckpointError where it has
    none."""
    names = text_names(model.checkpoint.tensors)
    others = model.checkpoint.tensors.keys() - set(names.values())
    return replace(
        model,
        checkpoint=RowMappedCheckpoint(
            model.checkpoint, ordered({plain: RowMap((name,)) for plain, name in names.items()})
        ),
        config=text_config(model.home, model.config),
        left_out=model.left_out | dict.fromkeys(sorted(others, key=natural_key), OTHER_PART),
        notes=(*model.notes, "its language model alone"),
    )
