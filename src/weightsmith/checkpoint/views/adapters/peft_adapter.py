"""An adapter folder of peft's, read: LoRA with all that goes with it (DoRA, rsLoRA, embeddings, biases, whole modules,
single tokens, parameters of experts), LoHa, LoKr and IA3. What changes a weight otherwise is refused by name.

Keys and formulas: peft 0.21, `tuners/lora/layer.py`, `tuners/loha/layer.py`, `tuners/lokr/layer.py`,
`tuners/ia3/layer.py`, `utils/save_and_load.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightsmith.checkpoint.checkpoint import Checkpoint, read_tensor
from weightsmith.checkpoint.views.adapters.adapter_files import (
    open_peft_weights,
    pattern_value,
    plain_key,
    read_peft_config,
)
from weightsmith.checkpoint.views.adapters.changes import AddMatrix
from weightsmith.checkpoint.views.adapters.low_rank import LowRank
from weightsmith.errors import CheckpointError, shown

if TYPE_CHECKING:
    import torch

_NAME = r"(?:\.[^.]+)?"  # of the adapter, where it is part of the key
_KEYS = {
    "lora": re.compile(rf"(?P<module>.+)\.lora_(?P<part>A|B){_NAME}\.weight"),
    "embedding": re.compile(rf"(?P<module>.+)\.lora_embedding_(?P<part>A|B){_NAME}"),
    "magnitude": re.compile(rf"(?P<module>.+)\.lora_(?P<part>magnitude_vector){_NAME}(?:\.weight)?"),
    "lora bias": re.compile(rf"(?P<module>.+)\.lora_(?P<part>B){_NAME}\.bias"),
    "tokens": re.compile(rf"(?P<module>.+?)(?:\.token_adapter)?\.(?P<part>trainable_tokens_delta){_NAME}"),
    "saved": re.compile(r"(?P<module>.+)\.modules_to_save(?:\.[^.]+)?\.(?P<part>weight|bias)"),
    "base layer": re.compile(r"(?P<module>.+)\.base_layer\.(?P<part>weight|bias)"),
    "hadamard": re.compile(rf"(?P<module>.+)\.hada_(?P<part>w1_a|w1_b|w2_a|w2_b){_NAME}"),
    "kronecker": re.compile(rf"(?P<module>.+)\.lokr_(?P<part>w1|w2|w1_a|w1_b|w2_a|w2_b){_NAME}"),
    "ia3": re.compile(rf"(?P<module>.+)\.(?P<part>ia3_l){_NAME}"),
    "other": re.compile(r".+\.(lora_|hada_|lokr_|ia3_|vera_|oft_|boft_|adapter_)\w+.*|prompt_embeddings"),
}
_METHODS = {"LORA", "LOHA", "LOKR", "IA3", "TRAINABLE_TOKENS"}
# Initializations that take something from the base's weights, which an adapter alone cannot tell.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Of peft's settings, those under which weights are other than W + scale * B @ A.
_OTHER_VARIANTS = (
    "use_qalora",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
_PLAIN_USES = ("use_rslora", "use_dora", "use_effective_conv2d")


@dataclass
class PeftAdapter:
    """What an adapter does, by the names it was trained with. `linear` and `embedding`: weight -> (LoRA, DoRA's
    magnitude); `experts`: module -> [(depth of nesting, A, B, scale)]; `replaced`: tensor -> its key, of
    `modules_to_save` and biases, `resized` of embeddings that were saved along; `tokens`: weight -> (rows, their
    values)."""

    path: Path
    config: Mapping[str, Any]
    weights: Checkpoint
    linear: dict[str, tuple[LowRank, torch.Tensor | None]] = field(default_factory=dict)
    embedding: dict[str, tuple[LowRank, torch.Tensor | None]] = field(default_factory=dict)
    experts: dict[str, list[tuple[int, torch.Tensor, torch.Tensor, float]]] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    biases: dict[str, torch.Tensor] = field(default_factory=dict)
    matrices: dict[str, AddMatrix] = field(default_factory=dict)
    scales: dict[str, torch.Tensor] = field(default_factory=dict)
    rank: int = 0

    @property
    def names(self) -> set[str]:
        """Every tensor that it changes; of experts, whose parameters have no names in an adapter, none."""
        parts = (self.linear, self.embedding, self.replaced, self.resized, self.tokens, self.biases, self.matrices)
        return {name for part in (*parts, self.scales) for name in part}

    @property
    def is_plain(self) -> bool:
        """LoRA of linear layers and nothing else."""
        more = self.names - self.linear.keys() or self.experts
        return not more and all(magnitude is None for _, magnitude in self.linear.values())


def read_peft_adapter(adapter: Path) -> PeftAdapter:
    """The folder `adapter`. Raises CheckpointError for what is not read, with what to do."""
    config = read_peft_config(adapter)
    _check_config(adapter, config)
    weights = open_peft_weights(adapter)
    read = PeftAdapter(adapter, config, weights)
    sides: dict[tuple[str, str], dict[str, str]] = {}
    if not weights.tensors:
        raise CheckpointError(f"{adapter}: its file of weights has no tensors; download it again", path=adapter)
    for key, info in weights.tensors.items():
        if not info.is_float:
            raise CheckpointError(
                f"{adapter}: tensor {shown(key)} holds integers ({info.dtype}), and no adapter that is read does; "
                "download it again",
                path=adapter,
            )
        kind, module, part = _parse(adapter, plain_key(key))
        sides.setdefault((kind, module), {})[part] = key
    for (kind, module), parts in sides.items():
        try:
            _READERS[kind](read, module, parts, sides)
        except CheckpointError as error:
            if error.path is not None:
                raise
            path = adapter / "adapter_config.json"
            raise CheckpointError(f"{path}: {error} (module {shown(module)})", path=path) from error
    return read


def _check_config(adapter: Path, config: Mapping[str, Any]) -> None:
    path = adapter / "adapter_config.json"
    remedy = "merge this adapter into its base with peft (merge_and_unload) first"
    if not isinstance(config.get("peft_type"), str) or config["peft_type"] not in _METHODS:
        raise CheckpointError(
            f"{path}: peft_type is {shown(config.get('peft_type'))}; read are {', '.join(sorted(_METHODS))}; {remedy}",
            path=path,
        )
    _check_types(path, config)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        raise CheckpointError(
            f"{path}: init_lora_weights is {start!r}: the adapter belongs to a base whose weights were changed "
            "when it was "
            "made, not to the one that was published. Save it again in peft with save_pretrained(..., "
            f"path_initial_model_for_weight_conversion=...), which makes it plain LoRA, or {remedy}",
            path=path,
        )
    unknown = [key for key, value in config.items() if key.startswith("use_") and value and key not in _PLAIN_USES]
    for key in (*_OTHER_VARIANTS, *unknown):
        if config.get(key):
            raise CheckpointError(f"{path}: {key} is set, which is not read; {remedy}", path=path)


def _check_types(path: Path, config: Mapping[str, Any]) -> None:
    for key, (fits, what) in _TYPES.items():
        if config.get(key) is not None and not fits(config[key]):
            raise CheckpointError(f"{path}: {key} is {shown(config[key])}, not {what}; download it again", path=path)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_ranges(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and n >= 0 for n in pair) for pair in value
    )


# Setting -> (whether a value is of its kind, the kind in words).
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (lambda value: type(value) is int and 0 < value < 1 << 20, "a rank"),
    "rank_pattern": (lambda value: isinstance(value, dict), "an object"),
    "alpha_pattern": (lambda value: isinstance(value, dict), "an object"),
    "target_parameters": (_is_names, "a list of names"),
    "modules_to_save": (_is_names, "a list of names"),
    "layer_replication": (_is_ranges, "a list of ranges of layers"),
    "trainable_token_indices": (lambda value: isinstance(value, dict | list), "a list of rows"),
    "base_model_name_or_path": (lambda value: isinstance(value, str), "a name"),
    "target_modules": (lambda value: isinstance(value, str) or _is_names(value), "a list of names"),
}


def _parse(adapter: Path, key: str) -> tuple[str, str, str]:
    """(kind, module, part) of a tensor's plain name."""
    for kind, pattern in _KEYS.items():
        if match := pattern.fullmatch(key):
            if kind == "other":
                break
            return kind, match["module"], match["part"]
    else:
        module, _, part = key.rpartition(".")
        return "whole", module, part
    raise CheckpointError(
        f"{adapter}: tensor {key!r} is no part of LoRA, LoHa, LoKr or IA3 that is read; merge this adapter into "
        "its base "
        "with peft first",
        path=adapter,
    )


def _tensor(read: PeftAdapter, key: str) -> torch.Tensor:
    import torch

    return read_tensor(read.weights, key, torch.float32)


def _pair(read: PeftAdapter, module: str, parts: Mapping[str, str], names: tuple[str, str]) -> list[torch.Tensor]:
    if missing := [name for name in names if name not in parts]:
        raise CheckpointError(
            f"{read.path}: {module!r} has only half of its LoRA pair: {missing[0]} is missing", path=read.path
        )
    return [_tensor(read, parts[name]) for name in names]


def _scale(read: PeftAdapter, module: str, rank: int) -> float:
    alpha_key = "alpha" if read.config["peft_type"] in ("LOHA", "LOKR") else "lora_alpha"
    alpha = pattern_value(read.config.get("alpha_pattern") or {}, module, read.config.get(alpha_key, 8))
    if rank < 1:
        raise CheckpointError(f"the rank is {rank}")
    return alpha / (math.sqrt(rank) if read.config.get("use_rslora") else rank)


def _magnitude(read: PeftAdapter, module: str, sides: Mapping[tuple[str, str], Mapping[str, str]]) -> Any:
    key = sides.get(("magnitude", module), {}).get("magnitude_vector")
    return _tensor(read, key).reshape(-1) if key else None


def _read_lora(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    a, b = _pair(read, module, parts, ("A", "B"))
    if a.ndim != 2 or b.ndim != 2:
        raise CheckpointError(
            f"{read.path}: {module!r} is LoRA of a convolution ({list(a.shape)}), which is not read; merge this "
            "adapter "
            "into its base with peft first",
            path=read.path,
        )
    targets = read.config.get("target_parameters") or []
    plain = re.sub(r"(\.base_layer)+$", "", module)
    if any(_is_of(target.rpartition(".")[0], plain) for target in targets):
        rank = int(pattern_value(read.config.get("rank_pattern") or {}, plain, read.config.get("r", 8)))
        depth = module.count(".base_layer")
        read.experts.setdefault(plain, []).append((depth, a, b, _scale(read, plain, rank)))
        read.rank = max(read.rank, rank)
        return
    rank = min(a.shape[0], b.shape[1])
    read.rank = max(read.rank, rank)
    read.linear[f"{module}.weight"] = LowRank(a, b, _scale(read, module, rank)), _magnitude(read, module, sides)


def _is_of(module: str, name: str) -> bool:
    return name == module or name.endswith(f".{module}")


def _read_embedding(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    a, b = _pair(read, module, parts, ("A", "B"))
    low_rank = LowRank(b.T.contiguous(), a.T.contiguous(), _scale(read, module, len(a)))
    read.rank = max(read.rank, len(a))
    read.embedding[f"{module}.weight"] = low_rank, _magnitude(read, module, sides)


def _read_lora_bias(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    rank = len(_tensor(read, sides["lora", module]["A"]))
    read.biases[f"{module}.bias"] = _tensor(read, parts["B"]) * _scale(read, module, rank)


def _read_tokens(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    import torch

    indices = read.config.get("trainable_token_indices", read.config.get("token_indices"))
    if isinstance(indices, dict):
        indices = next((rows for name, rows in indices.items() if _is_of(name, module)), None)
    values = _tensor(read, parts["trainable_tokens_delta"])
    if not isinstance(indices, list) or not all(type(row) is int and row >= 0 for row in indices):
        raise CheckpointError(
            f"{read.path}: the rows of the tokens that {module!r} trained are not given", path=read.path
        )
    if len(indices) != len(values):
        raise CheckpointError(
            f"{read.path}: {module!r} has {len(values)} trained tokens, adapter_config.json names {len(indices)}",
            path=read.path,
        )
    read.tokens[f"{module}.weight"] = torch.tensor(indices), values


def _read_saved(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    for part, key in parts.items():
        read.replaced[f"{module}.{part}"] = key


def _read_base_layer(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    for part, key in parts.items():
        read.resized[f"{module}.{part}"] = key


def _read_whole(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    saved = read.config.get("modules_to_save") or []
    for part, key in parts.items():
        target = read.replaced if part == "bias" or any(_is_of(name, module) for name in saved) else read.resized
        target[f"{module}.{part}"] = key


def _read_hadamard(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    factors = _pair(read, module, parts, ("w1_a", "w1_b")), _pair(read, module, parts, ("w2_a", "w2_b"))
    scale = _scale(read, module, factors[0][0].shape[1])

    def rows_of(first: int, last: int) -> torch.Tensor:
        (w1a, w1b), (w2a, w2b) = factors
        return (w1a[first:last] @ w1b) * (w2a[first:last] @ w2b) * scale

    read.rank = max(read.rank, factors[0][0].shape[1])
    read.matrices[f"{module}.weight"] = AddMatrix(rows_of, (len(factors[0][0]), factors[0][1].shape[1]))


def _read_kronecker(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    import torch

    def factor(name: str) -> tuple[torch.Tensor, int | None]:
        if name in parts:
            return _tensor(read, parts[name]), None
        a, b = _pair(read, module, parts, (f"{name}_a", f"{name}_b"))
        return a @ b, a.shape[1]

    (w1, rank1), (w2, rank2) = factor("w1"), factor("w2")
    known = rank1 or rank2 or int(pattern_value(read.config.get("rank_pattern") or {}, module, read.config.get("r", 8)))
    scale = _scale(read, module, known)

    def rows_of(first: int, last: int) -> torch.Tensor:
        height = len(w2)
        begin, end = first // height, -(-last // height)
        return torch.kron(w1[begin:end], w2)[first - begin * height : last - begin * height] * scale

    read.rank = max(read.rank, known)
    read.matrices[f"{module}.weight"] = AddMatrix(rows_of, (len(w1) * len(w2), w1.shape[1] * w2.shape[1]))


def _read_ia3(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    read.scales[f"{module}.weight"] = _tensor(read, parts["ia3_l"])


def _nothing(read: PeftAdapter, module: str, parts: Mapping[str, str], sides: Any) -> None:
    """Read with the tensors that it belongs to."""


_READERS = {
    "lora": _read_lora,
    "embedding": _read_embedding,
    "magnitude": _nothing,
    "lora bias": _read_lora_bias,
    "tokens": _read_tokens,
    "saved": _read_saved,
    "base layer": _read_base_layer,
    "hadamard": _read_hadamard,
    "kronecker": _read_kronecker,
    "ia3": _read_ia3,
    "whole": _read_whole,
}
