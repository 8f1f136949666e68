"""Candidates merged straight into a live model: inputs are opened once, and only tensors whose parameters changed are
computed. On a device, inputs and model stay there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weightsmith.checkpoint.dtypes import torch_dtypes
from weightsmith.engine.in_memory import compute_tensors
from weightsmith.engine.know_whole_model import know_whole_model
from weightsmith.engine.run_tensors import RunSettings
from weightsmith.engine.workers.device_inputs import DeviceInputs
from weightsmith.evaluation.backends.transformers.transformers_backend import PRECISIONS, TransformersBackend
from weightsmith.evaluation.backends.transformers.unwritten_model import UnwrittenModel
from weightsmith.machine import device_names
from weightsmith.models.live_model import fill_model
from weightsmith.models.model import Model
from weightsmith.models.open_model import open_model
from weightsmith.planning.make_plan import make_plan
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.recipe.recipe import Recipe
from weightsmith.recipe_search.trials.bound_table import BoundTable
from weightsmith.recipe_search.trials.input_cache import InputCache

_COPIED = 1 << 28  # bytes that are merged at once where they are not the live model's own


@dataclass(frozen=True)
class Merged:
    """`tensors` of `all_tensors` were computed, in `seconds`."""

    tensors: int
    all_tensors: int
    seconds: float


class LiveMerge:
    """One live model, which becomes one candidate after the other. `path` is that of the search file: model references
    are relative to its folder. `workers`: processes that share the device."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        precision: str,
        cache: InputCache,
        memory: int | None = None,
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        self._path, self._threads, self._precision, self._memory = path, threads, precision, memory
        self._device = device = device_names(device)[0]  # the live model is on one
        self._opened: dict[str, Model] = {}
        self._bases: dict[Path, Model] = {}
        self._cache = cache
        kept = None if device == "cpu" else DeviceInputs.of_half(device, workers)
        self._settings = RunSettings(bounds=BoundTable(device), device=device, device_inputs=kept)
        self._scratch = contextlib.ExitStack()
        self._frame: Any = None  # what the live model's shape, tokenizer and names depend on
        self._computed_from: dict[str, tuple[Any, ...]] = {}  # tensor -> what it was computed from
        self.backend: TransformersBackend | None = None

    def plan(self, tree: Mapping[str, Any]) -> Plan:
        """Raises RecipeError, CheckpointError or PlanError."""
        return make_plan(self.load(tree), opener=self._open)

    def load(self, tree: Mapping[str, Any]) -> Recipe:
        return Recipe.from_dict(tree, path=self._path)

    def become(self, plan: Plan) -> Merged:
        """Have `backend` be the merge. Raises MergeError or EvaluationError."""
        started = time.perf_counter()
        try:
            plan = know_whole_model(plan, self._threads, self._settings)
        finally:
            torch.set_num_threads(self._threads)
        frame = (
            plan.home.reference,
            plan.config,
            [(t.name, t.info, t.round_to) for t in plan.tensors],
            plan.recipe.schema.tokenizer_source,
            plan.recipe.schema.tokenizer,
            plan.chat_template,
        )
        if frame != self._frame:
            self._frame, self._computed_from = None, {}
        origins = {tensor.name: _origin(plan, tensor) for tensor in plan.tensors}
        changed = [tensor for tensor in plan.tensors if self._computed_from.get(tensor.name) != origins[tensor.name]]
        tensors = [self._cache.cached(tensor) for tensor in changed]
        if self._frame is None:
            self._start(plan, tensors)
        else:
            self._fill(plan, tensors)
        self._frame, self._computed_from = frame, origins
        return Merged(len(changed), len(plan.tensors), time.perf_counter() - started)

    def close(self) -> None:
        self._scratch.close()

    def _open(self, reference: str, beside: Path) -> Model:
        if reference not in self._opened:
            self._opened[reference] = open_model(reference, beside=beside, bases=self._bases)
        return self._opened[reference]

    def _start(self, plan: Plan, tensors: list[TensorPlan]) -> None:
        self.backend = None
        self._scratch.close()
        described_model = self._scratch.enter_context(UnwrittenModel(plan, str(self._path)))
        weights = self._compute(plan, tensors, {})
        model = fill_model(str(self._path), plan.config, weights, PRECISIONS[self._precision])
        self.backend = TransformersBackend(
            described_model,
            precision=self._precision,
            memory=self._memory,
            device=self._device,
            load=lambda: model,
        )
        self._places = self.backend.weights()

    def _fill(self, plan: Plan, tensors: list[TensorPlan]) -> None:
        fits = all(t.name in self._places and self._places[t.name].shape == t.info.shape for t in tensors)
        if not fits:  # the class keeps its weights in another form than the checkpoint has
            self._start(plan, [self._cache.cached(tensor) for tensor in plan.tensors])
            return
        self._computed_from = {}  # until all of it is there
        self._compute(plan, tensors, self._places)

    def _compute(
        self, plan: Plan, tensors: list[TensorPlan], into: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Compute the tensors in the live model's precision, into `into` where it has the name."""
        dtype, weights = PRECISIONS[self._precision], dict[str, torch.Tensor]()
        try:
            for group in _groups(tensors, dtype):
                computed = compute_tensors(
                    group, plan.method, into=into, threads=self._threads, settings=self._settings
                )
                for name, weight in computed.items():
                    if name not in into:
                        weights[name] = weight.to(dtype) if weight.is_floating_point() else weight
                    elif weight.data_ptr() != into[name].data_ptr():
                        into[name].detach().copy_(weight)
        finally:
            torch.set_num_threads(self._threads)
        return weights


def _groups(tensors: list[TensorPlan], dtype: torch.dtype | None) -> Iterator[list[TensorPlan]]:
    """Those of `dtype`, which become the live model's own memory, together, the others a few at a time: they are
    copied."""
    direct = [t for t in tensors if torch_dtypes()[t.info.dtype] == dtype]
    if direct:
        yield direct
    group, size = list[TensorPlan](), 0
    for tensor in tensors:
        if torch_dtypes()[tensor.info.dtype] != dtype:
            group.append(tensor)
            size += tensor.info.nbytes
            if size >= _COPIED:
                yield group
                group, size = [], 0
    if group:
        yield group


def _origin(plan: Plan, tensor: TensorPlan) -> tuple[Any, ...]:
    """What a tensor's values depend on."""
    sources = tuple((source.model.reference, source.tensor) for source in tensor.sources)
    return (plan.method.name, sources, tensor.settings, tensor.round_to)
