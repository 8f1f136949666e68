"""config.json: values that no model has, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.builders import CONFIG, recipe, write_model
from tests.hostile.corpus.values import RAW, WRONG, written
from tests.hostile.fork import EITHER, REFUSED, TAKEN, Case

_MERGE = ("merge", "r.yml", "out", "-q")
_COUNTS = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
_IMPOSSIBLE = ("true", "minus one", "half", "huge", "huger", "text", "number as text", "list", "list in list", "object")
_MORE = (
    "architectures", "model_type", "num_key_value_heads", "intermediate_size", "head_dim", "max_position_embeddings",
    "rms_norm_eps", "rope_theta", "rope_scaling", "tie_word_embeddings", "torch_dtype", "hidden_act", "pad_token_id",
    "eos_token_id", "sliding_window", "layer_types", "quantization_config", "text_config", "num_labels", "id2label",
    "auto_map", "attn_implementation", "vision_config",
)  # fmt: skip


def _built(content: bytes | str, place: str = "bad") -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_model(folder / "good", 0)
        write_model(folder / "bad", 1, config__json=content)
        names = ("good", "bad") if place == "second" else ("bad", "good")
        (folder / "r.yml").write_text(recipe(*names))

    return build


def cases() -> Iterator[Case]:
    yield Case("a good one", _built(json.dumps(CONFIG)), _MERGE, "", TAKEN)
    for name, raw in RAW.items():
        codes = EITHER if name in ("many digits behind the point", "huge exponent") else REFUSED
        for place in ("first", "second"):
            yield Case(f"{name}, {place}", _built(raw, place), _MERGE, "bad", codes)
    for key in (*_COUNTS, *_MORE):
        for name in WRONG:
            codes = REFUSED if key in _COUNTS and name in _IMPOSSIBLE else EITHER
            yield Case(f"{key}: {name}", _built(written(CONFIG, key, name)), _MERGE, "bad", codes)
    for kind in ("a folder", "a pipe", "a device", "a link to nothing", "no permission"):
        yield Case(kind, _of_kind(kind), ("inspect", "bad"), "config.json", EITHER if "permission" in kind else REFUSED)


def _of_kind(kind: str) -> Callable[[Path], None]:
    import os

    def build(folder: Path) -> None:
        write_model(folder / "bad", 1, config__json=None)
        path = folder / "bad/config.json"
        if kind == "a folder":
            path.mkdir()
        elif kind == "a pipe":
            os.mkfifo(path)
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        elif kind == "a link to nothing":
            path.symlink_to("nothing")
        else:
            path.write_text("{}")
            path.chmod(0)

    return build
