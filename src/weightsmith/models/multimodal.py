"""The language model inside a multimodal one: `model.language_model.layers.0` is `model.layers.0` of a model that only
reads. Some classes name its tensors as such a model does, and have a tower beside them (Qwen2-VL's `visual.*`)."""

from __future__ import annotations

import re
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
_TOWERS = re.compile(
    r"(model\.)?(visual|vision_\w+|vpm|vit|audio\w*|embed_vision|embed_audio|multi_modal_\w+|mm_projector|mlp1"
    r"|connector|aligner|projector|image_newline|view_seperator|img_\w+|qformer|query_tokens|language_projection"
    r"|modality_projection|speech_\w+|sound_\w+)(\..*|)"
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
    text_tensors, wrapped, names = {}, False, list(names)
    if any(_TOWERS.fullmatch(name) for name in names):
        plain = {name: name for name in names if not _TOWERS.fullmatch(name)}
        if plain and not any(name.startswith(wrapper) for name in plain for wrapper, _ in _WRAPPERS):
            return plain
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
    if text is None and type(config.get("hidden_size")) is int:  # Qwen2-VL as it was published
        return {key: value for key, value in config.items() if key not in ("vision_config", "audio_config")}
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
    alone; as they are where the class of that configuration is not known."""
    names, part = text_names(infos), config.get("text_config")
    unknown = isinstance(part, dict) and part.get("model_type") not in _CLASSES
    if not names or len(names) < len(infos) or unknown:
        return infos, plain, config, []
    text = text_config(home, config) if "text_config" in config else config
    notes = ["the names of a multimodal model's language part, read as a language model's"]
    return {s: infos[n] for s, n in names.items()}, {s: plain[n] for s, n in names.items()}, text, notes


def _text_settings(model: Model) -> dict[str, Any]:
    """The settings of a language model that is read beside others and gives no configuration itself."""
    part = next((model.config[key] for key in ("text_config", "llm_config") if key in model.config), model.config)
    known = isinstance(part, dict) and part.get("model_type") in _CLASSES
    return text_config(model.home, model.config) if known else {**part, "architectures": []}


def as_text_part_of(base: Model, model: Model) -> Model:
    """A language model under the names that it has inside the multimodal `base`, whose other parts it lacks."""
    names = text_names(base.checkpoint.tensors)
    maps = {names.get(name, name): RowMap((name,)) for name in model.checkpoint.tensors}
    parts = frozenset(base.checkpoint.tensors.keys() - set(names.values()))
    return replace(
        model,
        checkpoint=RowMappedCheckpoint(model.checkpoint, ordered(maps)),
        lacks=parts,
        notes=(*model.notes, f"read as the language model of {base.reference}"),
    )


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
        config=_text_settings(model),
        left_out=model.left_out | dict.fromkeys(sorted(others, key=natural_key), OTHER_PART),
        notes=(*model.notes, "its language model alone"),
    )
