"""A plan: for every output tensor its sources and final parameter values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.methods.method import Method, Settings
from weightsmith.models.model import Model
from weightsmith.recipe.recipe import LoadedRecipe
from weightsmith.tokenizer.alignment import Alignment


@dataclass(frozen=True)
class TensorSource:
    """Where one input of an output tensor is read."""

    model: Model
    tensor: str


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor. `copy` marks integer tensors, taken from the first source as they are."""

    name: str
    info: TensorInfo  # output shape and dtype
    sources: tuple[TensorSource, ...]
    settings: Settings
    round_to: str  # the recipe's `dtype`, through which results pass before `out_dtype`
    copy: bool = False

    @property
    def read_bytes(self) -> int:
        return sum(s.model.checkpoint.tensors[s.tensor].nbytes for s in self.sources)


@dataclass(frozen=True)
class Plan:
    """A recipe resolved: every output tensor with its sources and settings. `warnings`: what is allowed and rarely
    meant."""

    loaded: LoadedRecipe
    method: Method
    models: dict[str, Model]
    home: Model  # gives config and tokenizer
    config: dict[str, Any]
    tensors: tuple[TensorPlan, ...]
    vocabulary: Alignment | None = None  # where the recipe asks for one; its tokenizer is written
    warnings: tuple[str, ...] = ()

    @property
    def output_bytes(self) -> int:
        return sum(tensor.info.nbytes for tensor in self.tensors)

    @property
    def read_bytes(self) -> int:
        return sum(tensor.read_bytes for tensor in self.tensors)
