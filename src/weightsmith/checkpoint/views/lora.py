"""A LoRA adapter (a folder in peft's format, or a GGUF file of llama.cpp's) applied to a base checkpoint: W + scale * B
@ A, for the rows asked for.

Paper: https://arxiv.org/abs/2106.09685. `scale` is alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightsmith.checkpoint.checkpoint import Checkpoint, read_tensor
from weightsmith.checkpoint.dtypes import convert
from weightsmith.checkpoint.gguf_file import GGUFFile
from weightsmith.checkpoint.weights_folder import WeightsFile, open_weights
from weightsmith.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_LORA = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>A|B)(?:\.default)?\.weight$")
_LORA_GGUF = re.compile(r"^(?P<weight>.+)\.lora_(?P<side>a|b)$")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one weight: scale * B @ A. float32, A [rank, in], B [out, rank]."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    def check_fits(self, adapter: Path, name: str, shape: tuple[int, ...]) -> None:
        """Raises CheckpointError where the base's weight `name` has another `shape`."""
        if (self.b.shape[0], self.a.shape[1]) != shape or self.a.shape[0] != self.b.shape[1]:
            raise CheckpointError(
                f"{adapter}: {name!r} is B {list(self.b.shape)} @ A {list(self.a.shape)}, the base's weight is "
                f"{list(shape)}; it was made for another model",
                path=adapter,
            )


class LoraCheckpoint:
    """The base's tensors with the adapter added. Raises CheckpointError where the adapter does not fit the base."""

    def __init__(self, base: Checkpoint, adapter: Path) -> None:
        self._base, self.tensors = base, base.tensors
        self._low_rank: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # scale * B [out, r], A [r, in]
        for name, pair in read_adapter(adapter).items():
            if name not in base.tensors:
                raise CheckpointError(f"{adapter}: adapts {name!r}, which the base model does not have", path=adapter)
            pair.check_fits(adapter, name, base.tensors[name].shape)
            self._low_rank[name] = (pair.b * pair.scale, pair.a)

    @property
    def rank(self) -> int:
        return max((a.shape[0] for _, a in self._low_rank.values()), default=0)

    def unchanged(self, name: str) -> Checkpoint | None:
        """The base, where the adapter leaves a tensor as it is."""
        return None if name in self._low_rank else self._base

    def read(self, name: str, start: int, stop: int, out: np.ndarray) -> None:
        import torch

        if name not in self._low_rank:
            return self._base.read(name, start, stop, out)
        b, a = self._low_rank[name]
        width = a.shape[1]
        first, last = start // width, -(-stop // width)
        values = torch.empty(stop - start, dtype=torch.float32)
        self._base.read(name, start, stop, values.numpy())
        values += (b[first:last] @ a).reshape(-1)[start - first * width : stop - first * width]
        convert(values.numpy(), out)


def read_adapter(adapter: Path) -> dict[str, LowRank]:
    """Adapters by the weight they adapt, in the names it was trained with: a folder in peft's format, or llama.cpp's
    GGUF. Raises CheckpointError."""
    return _read_gguf(adapter) if adapter.is_file() else _read_peft(adapter)


def adapted_tensors(adapter: Path) -> set[str]:
    """The weights that an adapter changes, in the names it was trained with; from headers. Raises CheckpointError."""
    if adapter.is_file():
        return {match["weight"] for key in _open_gguf(adapter).tensors if (match := _LORA_GGUF.match(key))}
    matches = (_LORA.match(key) for key in _open_weights(adapter).tensors)
    return {f"{match['module']}.weight" for match in matches if match}


def _read_peft(adapter: Path) -> dict[str, LowRank]:
    import torch

    config = _read_config(adapter)
    weights = _open_weights(adapter)
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key in weights.tensors:
        match = _LORA.match(key)
        if not match:
            raise CheckpointError(
                f"{adapter}: tensor {key!r} is not a LoRA matrix; only plain LoRA on linear layers is read",
                path=adapter,
            )
        sides.setdefault(match["module"], {})[match["side"]] = read_tensor(weights, key, torch.float32)
    low_rank = {}
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            raise CheckpointError(f"{adapter}: {module!r} has only half of its LoRA pair", path=adapter)
        a, b = pair["A"], pair["B"]
        if config.get("fan_in_fan_out"):
            a, b = b.T.contiguous(), a.T.contiguous()
        low_rank[f"{module}.weight"] = LowRank(a, b, _scale(config, module, min(a.shape[0], b.shape[1])))
    return low_rank


def _read_gguf(adapter: Path) -> dict[str, LowRank]:
    """An adapter as llama.cpp reads it (src/llama-adapter.cpp): scale is adapter.lora.alpha / rank, 1 where alpha is
    0."""
    import torch

    file = _open_gguf(adapter)
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise CheckpointError(f"{adapter}: adapter.lora.alpha is {alpha!r}", path=adapter)
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key in file.tensors:
        match = _LORA_GGUF.match(key)
        if not match or match["weight"].startswith("token_embd."):
            raise CheckpointError(
                f"{adapter}: tensor {key!r} is not a LoRA matrix of a linear layer; only those are read", path=adapter
            )
        sides.setdefault(match["weight"], {})[match["side"]] = read_tensor(file, key, torch.float32)
    low_rank = {}
    for name, pair in sides.items():
        if set(pair) != {"a", "b"} or any(side.ndim != 2 for side in pair.values()):
            raise CheckpointError(f"{adapter}: {name!r} has only half of its LoRA pair", path=adapter)
        low_rank[name] = LowRank(pair["a"], pair["b"], alpha / max(1, pair["b"].shape[1]) if alpha else 1.0)
    return low_rank


def _open_gguf(adapter: Path) -> GGUFFile:
    file = GGUFFile(adapter)
    types = (file.metadata.get("general.type"), file.metadata.get("adapter.type"))
    if types != ("adapter", "lora"):
        raise CheckpointError(f"{adapter}: is a GGUF file, but not a LoRA adapter", path=adapter)
    return file


def _open_weights(adapter: Path) -> WeightsFile:
    """`adapter_model.safetensors`, or the `.bin` that peft wrote before."""
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (adapter / name).exists():
            return open_weights(adapter / name)
    raise CheckpointError(
        f"{adapter}: no adapter_model.safetensors in it; an adapter is a folder in peft's format", path=adapter
    )


def _read_config(adapter: Path) -> dict[str, Any]:
    path = adapter / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as an adapter's configuration: {error}", path=path) from error
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{path}: peft_type is {config.get('peft_type')!r}; only LORA adapters are read", path=path
        )
    for key in ("use_dora", "modules_to_save", "alora_invocation_tokens"):
        if config.get(key):
            raise CheckpointError(f"{path}: {key} is set; merge this adapter into its base with peft first", path=path)
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: the adapter trains biases; merge it into its base with peft first", path=path)
    return config


def _pattern(patterns: dict[str, Any], module: str, default: float) -> float:
    """peft's rank_pattern / alpha_pattern: keys are regular expressions matched at the end of the module name."""
    return next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), default)


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    alpha = _pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
