"""A plan: for every output tensor its sources and final parameter values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.views.expert_layout import ExpertLayout
from weightsmith.methods.depth_scaling import AUTO, DEPTH_SCALING
from weightsmith.methods.method import Method
from weightsmith.methods.tensor_settings import Settings
from weightsmith.models.model import Model
from weightsmith.recipe.recipe import Recipe
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
    experts: ExpertLayout | None = None  # of a tensor of all experts, whose matrices are merged one by one, straight

    def __str__(self) -> str:
        """`model.norm.weight [64] BF16: a (weight 0.5), b (weight 0.5), base_model c; normalize true`"""
        sources = [self._show_source(number) for number in range(len(self.sources))]
        text = f"{self.name} {list(self.info.shape)} {self.info.dtype}: {', '.join(sources)}"
        shared = self._shown_settings()
        return f"{text}; {_show_values(shared)}" if shared and not self.copy else text

    def _shown_settings(self) -> dict[str, Any]:
        """Of the merge; what LiNeS makes of this tensor instead of its parameters."""
        own, settings = {p.name for p in DEPTH_SCALING}, self.settings
        shown = {name: value for name, value in settings.shared.items() if name not in own or value == AUTO}
        return shown | ({"scale": settings.scale} if settings.scale != 1 else {})

    def _show_source(self, number: int) -> str:
        source = self.sources[number]
        text = source.model.reference if source.tensor == self.name else f"{source.model.reference} {source.tensor}"
        if self.copy:
            return text
        values = self.settings.per_input[number]
        return ("base_model " if number == self.settings.base else "") + (
            f"{text} ({_show_values(values)})" if values else text
        )

    @property
    def read_bytes(self) -> int:
        return sum(s.model.checkpoint.tensors[s.tensor].nbytes for s in self.sources)

    @property
    def matrix_ends(self) -> tuple[int, ...]:
        """Behind the elements that are merged as if they were all of it."""
        return self.experts.matrix_ends if self.experts else (self.info.numel,)


@dataclass(frozen=True)
class Plan:
    """A recipe resolved: every output tensor with its sources and settings. `warnings`: what is allowed and rarely
    meant. As text, a line per tensor: name, shape, dtype, and each source with the values of its parameters.

    >>> ws.plan("ties.yml").output_bytes > 0
    True
    """

    recipe: Recipe
    method: Method
    models: dict[str, Model]
    home: Model  # gives config and tokenizer
    config: dict[str, Any]
    tensors: tuple[TensorPlan, ...]
    vocabulary: Alignment | None = None  # where the recipe asks for one; its tokenizer is written
    warnings: tuple[str, ...] = ()
    chat_template: str | None = None  # where the recipe asks for one; else the tokenizer's own stays
    origins: Mapping[str, Model] = field(default_factory=dict)  # by reference, with those of its stages

    def __str__(self) -> str:
        head = f"{self.method.name}: {len(self.models)} models, {len(self.tensors)} tensors"
        return "\n".join([head, *map(str, self.tensors)])

    @property
    def output_bytes(self) -> int:
        return sum(tensor.info.nbytes for tensor in self.tensors)

    @property
    def read_bytes(self) -> int:
        return sum(tensor.read_bytes for tensor in self.tensors)


def _show_values(values: dict[str, Any]) -> str:
    """`weight 0.5, normalize true`, as a recipe writes them."""
    return ", ".join(f"{name} {_show_value(value)}" for name, value in values.items() if value is not None)


def _show_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else f"{value}"
