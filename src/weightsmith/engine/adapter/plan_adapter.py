"""Which weights of a merge a LoRA adapter can hold, and what has to be equal to the base for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.errors import PlanError
from weightsmith.models.adapter import is_conv1d
from weightsmith.models.model import Model
from weightsmith.models.parts.embeddings import EMBEDDING_OR_HEAD
from weightsmith.planning.plan import Plan, TensorPlan, TensorSource
from weightsmith.planning.plan_tensor import ROUTER

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdaptedWeight:
    """One weight of the base, and the names of its pair. `transposed`: it is stored [inputs, outputs]."""

    tensor: TensorPlan
    base: TensorSource
    a: str
    b: str
    transposed: bool


@dataclass(frozen=True)
class AdapterPlan:
    """`merged`: the plan in float32; `pairs`: the adapter's tensors, A and B of each of `weights`; `others`: what an
    adapter cannot change, with the base's tensor."""

    base: Model
    merged: Plan
    rank: int
    weights: tuple[AdaptedWeight, ...]
    others: tuple[tuple[TensorPlan, TensorSource], ...]
    pairs: tuple[TensorPlan, ...]

    @property
    def config(self) -> dict[str, Any]:
        """adapter_config.json, as peft reads it."""
        modules = sorted(weight.tensor.name.removesuffix(".weight") for weight in self.weights)
        kinds = {weight.transposed for weight in self.weights}
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base.reference,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "target_modules": modules,
            "fan_in_fan_out": kinds == {True},
            "bias": "none",
            "inference_mode": True,
        }


def plan_adapter(plan: Plan, rank: int) -> AdapterPlan:
    """Raises PlanError where the result is no adapter of the base: no base model, other layers, another vocabulary,
    experts in one tensor."""
    schema = plan.recipe.schema
    place = plan.recipe.file.path
    if schema.base_model is None:
        raise PlanError(f"{place}: names no base_model; a LoRA adapter is what is added to one", path=place)
    base = plan.models[schema.base_model]
    if plan.vocabulary or plan.chat_template is not None:
        raise PlanError(
            f"{place}: a LoRA adapter holds no tokenizer; leave out tokenizer, tokenizer_source and chat_template, or "
            "write full weights",
            path=place,
        )
    merged, weights, others, pairs = [], [], [], []
    for tensor in plan.tensors:
        source = _of_base(tensor, base, plan)
        if tensor.copy and tensor.sources[0].model is base:
            continue  # it is the base's
        full = replace(tensor, info=TensorInfo(tensor.info.shape, "F32"), round_to="F32")
        merged.append(full)
        if not _can_be_adapted(tensor):
            others.append((full, source))
            continue
        weight = _weight(full, source, base.config)
        weights.append(weight)
        rows, columns = tensor.info.shape[::-1] if weight.transposed else tensor.info.shape
        for name, shape in ((weight.a, (rank, columns)), (weight.b, (rows, rank))):
            pairs.append(replace(full, name=name, info=TensorInfo(shape, "F32")))
    return AdapterPlan(base, replace(plan, tensors=tuple(merged)), rank, tuple(weights), tuple(others), tuple(pairs))


def _of_base(tensor: TensorPlan, base: Model, plan: Plan) -> TensorSource:
    if tensor.name not in base.tensors or base.tensors[tensor.name].shape != tensor.info.shape:
        raise PlanError(
            f"{plan.recipe.file.path}: tensor {tensor.name!r} {list(tensor.info.shape)} of the result is not in the "
            f"base model {base.reference}; a LoRA adapter changes its weights and adds none. Write full weights",
            path=plan.recipe.file.path,
        )
    return TensorSource(base, tensor.name)


def _can_be_adapted(tensor: TensorPlan) -> bool:
    is_linear = len(tensor.info.shape) == 2 and tensor.name.endswith(".weight")
    return is_linear and not tensor.copy and not (EMBEDDING_OR_HEAD.search(tensor.name) or ROUTER.search(tensor.name))


def _weight(tensor: TensorPlan, source: TensorSource, config: Mapping[str, Any]) -> AdaptedWeight:
    module = _PREFIX + tensor.name.removesuffix(".weight")
    transposed = is_conv1d(tensor.name, config)
    return AdaptedWeight(tensor, source, f"{module}.lora_A.weight", f"{module}.lora_B.weight", transposed)
