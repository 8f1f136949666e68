"""The files of an adapter: a folder in peft's format, or a GGUF file of llama.cpp's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import regex

from weightsmith.checkpoint.formats.gguf_file import GGUFFile
from weightsmith.checkpoint.weights_folder import WeightsFile, open_weights
from weightsmith.errors import CheckpointError, shown
from weightsmith.files.inputs.read_input import read_json

_SECONDS = 0.5  # that a pattern of an adapter may take
_LARGEST = 1e9  # of a rank or an alpha
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_IN_FRONT = ("base_model.model.", "module.")


def open_peft_weights(adapter: Path) -> WeightsFile:
    """`adapter_model.safetensors`, or the `.bin` that peft wrote before. Raises CheckpointError."""
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (adapter / name).exists():
            return open_weights(adapter / name)
    raise CheckpointError(
        f"{adapter}: no adapter_model.safetensors in it; an adapter is a folder in peft's format", path=adapter
    )


def read_peft_config(adapter: Path) -> dict[str, Any]:
    """adapter_config.json. Raises CheckpointError."""
    return read_json(adapter / "adapter_config.json")


def plain_key(key: str) -> str:
    """A tensor's name without what peft and training frameworks put around it."""
    key = _WRAPPERS.sub("", key)
    while key.startswith(_IN_FRONT):
        for wrapper in _IN_FRONT:
            key = key.removeprefix(wrapper)
    return key


def open_gguf_adapter(adapter: Path) -> GGUFFile:
    """Raises CheckpointError where it is a model."""
    file = GGUFFile(adapter)
    types = (file.metadata.get("general.type"), file.metadata.get("adapter.type"))
    if types != ("adapter", "lora"):
        raise CheckpointError(f"{adapter}: is a GGUF file, but not a LoRA adapter", path=adapter)
    return file


def pattern_value(patterns: Mapping[str, Any], module: str, default: float) -> float:
    """peft's rank_pattern and alpha_pattern: keys are regular expressions matched at the end of the module name. Raises
    CheckpointError for one that is none, or takes too long, and for a value that is no number."""
    for pattern, value in patterns.items():
        try:
            if not regex.match(rf"(.*\.)?({pattern})$", module, timeout=_SECONDS):
                continue
        except (regex.error, TimeoutError, RecursionError) as error:
            reason = "takes too long" if isinstance(error, TimeoutError) else f"is none: {error}"
            raise CheckpointError(f"the regular expression {shown(pattern)} {reason}") from error
        return _number(value)
    return _number(default)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise CheckpointError(f"a rank or alpha is {shown(value)}, not a number")
    return value
