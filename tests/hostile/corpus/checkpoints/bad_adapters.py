"""LoRA adapters: settings of other types, regular expressions that never end, matrices that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.builders import HIDDEN, Tensor, numbers, size_of, write_adapter, write_model
from tests.hostile.corpus.values import RAW, WRONG, written
from tests.hostile.fork import EITHER, TAKEN, Case

_INSPECT = ("inspect", "base+bad")
_SETTINGS: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
_KEYS = (
    "peft_type", "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "fan_in_fan_out", "modules_to_save", "target_parameters", "layer_replication", "trainable_token_indices",
    "init_lora_weights", "bias", "base_model_name_or_path", "layers_pattern", "lora_bias",
)  # fmt: skip
_FRONT = "base_model.model.model.layers.0.self_attn.q_proj"


def _built(
    config: Any = None, tensors: dict[str, Tensor] | None = None, raw: bytes | str | None = None
) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_model(folder / "base", 0)
        write_adapter(folder / "bad", config, tensors)
        if raw is not None:
            content = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
            (folder / "bad/adapter_config.json").write_bytes(content)

    return build


def cases() -> Iterator[Case]:
    yield Case("a good one", _built(), _INSPECT, "", TAKEN)
    for name, raw in RAW.items():
        yield Case(f"config: {name}", _built(raw=raw), _INSPECT, "adapter_config.json")
    for key in _KEYS:
        for name in WRONG:
            yield Case(f"{key}: {name}", _built(raw=written(_SETTINGS, key, name)), _INSPECT, "bad", EITHER)
    for key in ("alpha_pattern", "rank_pattern"):
        for pattern in ("(([a-z0-9_.]+)+)+!", "(a|a)*b" * 50, "(", "[", "(?P<x", "*", "x" * 100_000, "(" * 10_000):
            config = _SETTINGS | {key: {pattern: 1}, "target_parameters": ["self_attn.q_proj"]}
            yield Case(f"{key} {pattern[:20]}", _built(config), _INSPECT, "bad", EITHER)
        for name in WRONG:
            if name != "deep":
                config = json.dumps(_SETTINGS | {key: {"q_proj": WRONG[name]}})
                yield Case(f"{key} q_proj: {name}", _built(raw=config), _INSPECT, "bad", EITHER)
    for name, tensors in _tensors().items():
        yield Case(name, _built(tensors=tensors), _INSPECT, "bad")
    nan = {
        f"{_FRONT}.lora_A.weight": ("F32", (2, HIDDEN), b"\0\0\xc0\x7f" * (2 * HIDDEN)),
        **_side("lora_B", (HIDDEN, 2)),
    }
    command = ("export", "bad", "out.gguf", "--base", "base")
    yield Case("not a number, exported", _built(tensors=nan), command, "bad", outputs=("out.gguf",))


def _side(side: str, shape: tuple[int, ...], front: str = _FRONT) -> dict[str, Tensor]:
    return {f"{front}.{side}.weight": ("F32", shape, numbers(size_of(shape), 1))}


def _tensors() -> dict[str, dict[str, Tensor]]:
    a, b = _side("lora_A", (2, HIDDEN)), _side("lora_B", (HIDDEN, 2))
    return {
        "no tensors": {},
        "half a pair": a,
        "the other half": b,
        "one dimension": _side("lora_A", (2 * HIDDEN,)) | b,
        "no dimension": _side("lora_A", ()) | b,
        "four dimensions": _side("lora_A", (2, HIDDEN, 1, 1)) | b,
        "two ranks": _side("lora_A", (3, HIDDEN)) | b,
        "another width": _side("lora_A", (2, HIDDEN + 1)) | b,
        "another height": a | _side("lora_B", (HIDDEN + 1, 2)),
        "rank 0": _side("lora_A", (0, HIDDEN)) | _side("lora_B", (HIDDEN, 0)),
        "of no module": _side("lora_A", (2, HIDDEN), "base_model.model.nothing") | _side("lora_B", (HIDDEN, 2), "base_model.model.nothing"),
        "of layer 10^9": _side("lora_A", (2, HIDDEN), "base_model.model.model.layers.1000000000.self_attn.q_proj")
        | _side("lora_B", (HIDDEN, 2), "base_model.model.model.layers.1000000000.self_attn.q_proj"),
        "integers": {f"{_FRONT}.lora_A.weight": ("I32", (2, HIDDEN), numbers(2 * HIDDEN, 1)), **b},
        "an unknown part": a | b | _side("lora_C", (2, 2)),
        "control characters": a | b | {"\x1b[2J": ("F32", (1,), b"\0" * 4)},
    }  # fmt: skip
