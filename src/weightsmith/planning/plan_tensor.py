"""One output tensor planned: where its inputs are read, and the final value of every parameter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.checkpoint.dtypes import FLOATS, dtype_named, promoted
from weightsmith.checkpoint.views.expert_layout import ExpertLayout, straight
from weightsmith.checkpoint.views.transposed_panels import LastPanel
from weightsmith.errors import PlanError
from weightsmith.methods.method import REQUIRED, Method
from weightsmith.methods.tensor_settings import Settings
from weightsmith.models.model import Model
from weightsmith.models.naming.expert_forms import expert_layout
from weightsmith.models.parts.embeddings import EMBEDDING_OR_HEAD, EMBEDDINGS, OUTPUTS, embedding_name, is_tied
from weightsmith.planning.fused_parts import matrix_layout
from weightsmith.planning.plan import TensorPlan, TensorSource
from weightsmith.recipe.parameters import resolve
from weightsmith.recipe.recipe import Recipe
from weightsmith.recipe.recipe_schema import Slice

# The choice of experts, and the recurrent states whose decay is exponential.
ROUTER = re.compile(
    r"e_score_correction_bias$|(^|\.)(gate|router|router\.layer|router\.weight|wg|gate\.wg)\.weight$|\.(A_log|dt_bias|D)$"
)


@dataclass
class TensorPlanner:
    """Plans tensors of one recipe; `models`: reference -> opened."""

    recipe: Recipe
    models: Mapping[str, Model]
    # (model, those without) -> tensors
    kept: dict[tuple[str, tuple[str, ...]], list[str]] = field(default_factory=dict)
    _warned: Counter[str] = field(default_factory=Counter)  # warning -> number of tensors, in order
    _panels: dict[str, LastPanel] = field(default_factory=dict)  # what the threads have read of a model last

    @property
    def warnings(self) -> tuple[str, ...]:
        """About parameters, of all tensors planned so far: the first one, and how many tensors have another (a gradient
        gives each layer its own)."""
        kept = tuple(
            f"{', '.join(lacking)}: without {len(names)} tensors of {reference}, such as {names[0]}, which are "
            "taken from "
            "there as they are"
            for (reference, lacking), names in self.kept.items()
        )
        if not self._warned:
            return kept
        (first, _), *others = self._warned.items()
        more = sum(count for _, count in others)
        ending = f" ({more} tensors with other values give the same warning)" if more else ""
        return (
            *kept,
            f"{self.recipe.file.path}: {self.recipe.method.name}: {first}{ending}",
        )

    def plan(
        self,
        part: Slice,
        name: str,
        inputs: Sequence[str],
        t: float,
        *,
        outer: Mapping[str, Any],
        optional: bool = False,
    ) -> TensorPlan:
        """The output tensor `name` of a slice, made from the tensors `inputs` of its sources; `t`: its depth, 0 for the
        first layer of the slice and 1 for the last. `optional`: where a model lacks it, it is the base's (or first
        model's) as it is; `outer`: the parameters of the module that the slice is in. Raises RecipeError or
        PlanError."""
        schema = self.recipe.schema
        references = [source.model for source in part.sources]
        base_reference = part.base_model or schema.base_model
        base = references.index(base_reference) if base_reference in references else None
        if optional and (lacking := self._lacking(references, inputs)):
            return self._kept(references[base or 0], name, inputs[base or 0], lacking)
        sources = tuple(self._source(self.models[r], tensor) for r, tensor in zip(references, inputs, strict=True))
        infos = [source.model.checkpoint.tensors[source.tensor] for source in sources]
        self._check_shapes(name, sources, infos, base or 0)
        settings = self._settings(part, outer, name, inputs, base, t)
        stored = [info.dtype for info in infos if not info.decoded]
        dtype = promoted(stored or [info.dtype for info in infos])
        if dtype not in FLOATS:
            first = base or 0
            return TensorPlan(name, infos[first], (sources[first],), settings, infos[first].dtype, copy=True)
        round_to = dtype_named(schema.dtype) if schema.dtype else dtype
        out_dtype = dtype_named(schema.out_dtype) if schema.out_dtype else round_to
        first = base or 0
        if self._keeps_float32(name, infos):
            round_to = out_dtype = "F32"
        experts = self._experts(sources[first])
        if experts:
            sources = tuple(self._straight(source, experts) for source in sources)
        settings = self._with_role(settings, name, infos[first].shape, experts)
        return TensorPlan(name, TensorInfo(infos[0].shape, out_dtype), sources, settings, round_to, experts=experts)

    def _with_role(self, settings: Settings, name: str, shape: Sequence[int], experts: ExpertLayout | None) -> Settings:
        """With what a method of matrices has to know of a tensor."""
        if not self.recipe.method.of_matrices:
            return settings
        if EMBEDDING_OR_HEAD.search(name):
            role = "matrix" if settings.shared["embeddings"] == "matrix" else "embedding"
            return replace(settings, role=role if len(shape) == 2 else "vector")
        if experts:
            return replace(settings, role="matrix")
        if len(shape) != 2 or min(shape) < 2 or not name.endswith(".weight"):
            return settings
        config = next(iter(self.models.values())).config
        return replace(settings, role="matrix", matrix=matrix_layout(name, shape, config))

    def _experts(self, source: TensorSource) -> ExpertLayout | None:
        """How experts lie in a tensor, where the method looks at more than an element at a time."""
        method = self.recipe.method
        if type(method).statistics is Method.statistics and not method.row_wise:
            return None
        layout = expert_layout(source.tensor, source.model.checkpoint.tensors, source.model.config)
        by_inputs = layout is not None and layout.transposed and not method.row_wise
        return replace(layout, by_inputs=True) if layout and by_inputs else layout

    def _straight(self, source: TensorSource, experts: ExpertLayout) -> TensorSource:
        last = self._panels.setdefault(source.model.reference, LastPanel())
        view = straight(source.model.checkpoint, {source.tensor: experts}, last)
        return replace(source, model=replace(source.model, checkpoint=view))

    def _keeps_float32(self, name: str, infos: Sequence[TensorInfo]) -> bool:
        """Whether a router stays in float32, where it is stored so in models that are not: rounded, it would choose
        other experts. transformers keeps these in float32 too."""
        if any(info.dtype != "F32" or info.decoded for info in infos) or not ROUTER.search(name):
            return False
        if name.endswith("e_score_correction_bias"):
            return True
        stored = {info.dtype for model in self.models.values() for info in model.checkpoint.tensors.values()}
        return bool(stored & {"F16", "BF16"})

    def _lacking(self, references: Sequence[str], inputs: Sequence[str]) -> list[str]:
        pairs = zip(references, inputs, strict=True)
        return [reference for reference, tensor in pairs if tensor not in self.models[reference].checkpoint.tensors]

    def copy(self, reference: str, name: str) -> TensorPlan:
        """A tensor of one model as it is, in the output's dtype."""
        model = self.models[reference]
        info = model.checkpoint.tensors[name]
        out_dtype = self.recipe.schema.out_dtype or self.recipe.schema.dtype
        dtype = dtype_named(out_dtype) if out_dtype and info.is_float else info.dtype
        source = TensorSource(model, name)
        return TensorPlan(name, TensorInfo(info.shape, dtype), (source,), Settings({}, (), None), dtype, copy=True)

    def _kept(self, reference: str, name: str, tensor: str, lacking: Sequence[str]) -> TensorPlan:
        """A tensor that one model alone has, as it is."""
        self.kept.setdefault((reference, tuple(lacking)), []).append(name)
        return replace(self.copy(reference, tensor), name=name)

    def _source(self, model: Model, tensor: str) -> TensorSource:
        if tensor in model.checkpoint.tensors:
            return TensorSource(model, tensor)
        twin = embedding_name(model.checkpoint.tensors)
        if twin and tensor.endswith(OUTPUTS) and is_tied(model.config):
            return TensorSource(model, twin)
        head = next((name for name in model.checkpoint.tensors if name.startswith(("score.", "classifier."))), None)
        if head and tensor.endswith(OUTPUTS):
            raise PlanError(
                f"{self.recipe.line_of(model.reference)}: {model.reference} classifies ({head}) and has no {tensor!r}, "
                "which the merged model would have, as the model that gives it its shape writes text. Merge models "
                "with "
                "the same head: take one of them as the base, or a method without a base",
                **self.recipe.place_of(model.reference),
            )
        raise PlanError(
            f"{self.recipe.line_of(model.reference)}: tensor {tensor!r} is required and not in {model.reference}; its "
            "layer names or its depth differ from the other models'. `weightsmith inspect --recipe` says what would "
            "map the names; --accept-mapping uses it",
            **self.recipe.place_of(model.reference),
        )

    def _check_shapes(
        self, name: str, sources: Sequence[TensorSource], infos: Sequence[TensorInfo], first: int
    ) -> None:
        expected, reference = infos[first].shape, sources[first].model.reference
        for source, info in zip(sources, infos, strict=True):
            other = source.model.reference
            if info.shape == expected:
                continue
            line = self.recipe.line_of(other)
            if name.endswith((*EMBEDDINGS, *OUTPUTS)) and info.shape[1:] == expected[1:]:
                raise PlanError(
                    f"{line}: the vocabularies differ: {expected[0]} rows in {reference}, {info.shape[0]} in {other} "
                    f"({name}). Say whose to use: tokenizer_source: union (all tokens of all models), base (the base "
                    "model's) or a model; `weightsmith inspect --recipe` lists the tokens that differ",
                    **self.recipe.place_of(other),
                )
            raise PlanError(
                f"{line}: tensor {name!r} is {list(expected)} in {reference} and {list(info.shape)} in {other}; only "
                "models of one shape can be merged",
                **self.recipe.place_of(other),
            )

    def _settings(
        self, part: Slice, module: Mapping[str, Any], name: str, inputs: Sequence[str], base: int | None, t: float
    ) -> Settings:
        recipe, method = self.recipe, self.recipe.method
        outer = [part.parameters, module, recipe.schema.parameters]
        shared: dict[str, Any] = {}
        per_input: list[dict[str, Any]] = [{} for _ in inputs]
        for parameter in method.parameters:
            if parameter.scope == "shared":
                shared[parameter.name] = resolve(parameter, outer, name, t)
                if shared[parameter.name] is REQUIRED:
                    raise recipe.file.error(
                        ["parameters"], f"the parameter {parameter.name!r} of {method.name} has no value"
                    )
                continue
            for i, source in enumerate(part.sources):
                if parameter.scope == "non_base" and i == base:
                    continue
                value = resolve(parameter, [source.parameters, *outer], inputs[i], t)
                if value is REQUIRED:
                    raise recipe.file.error(
                        recipe.keys_of(source.model)[:2],
                        f"the parameter {parameter.name!r} of {method.name} has no value for {source.model} (tensor "
                        f"{inputs[i]})",
                    )
                per_input[i][parameter.name] = value
        models = tuple(source.model for source in part.sources)
        settings = Settings(shared, tuple(per_input), base, models=models)
        if objection := method.objection(settings):
            raise recipe.file.error(["parameters"], f"{method.name}: {objection} (tensor {name})")
        if warning := method.warning(settings):
            self._warned[warning] += 1
        return settings
