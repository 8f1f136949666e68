"""The models of an evaluation: opened, which finds what is wrong with them, and loaded one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.engine.in_memory import compute_tensors
from weightsmith.engine.know_whole_model import know_whole_model
from weightsmith.engine.output.run_digest import run_digest
from weightsmith.engine.stages.plan_stages import open_plan
from weightsmith.evaluation.answer_store import content_key
from weightsmith.evaluation.backend import Backend
from weightsmith.evaluation.backends.open_backend import (
    check_usable,
    open_backend,
    runs_in_llama_cpp,
    transformers_backend,
)
from weightsmith.evaluation.backends.precision_on import precision_on
from weightsmith.evaluation.backends.transformers.unwritten_model import UnwrittenModel
from weightsmith.evaluation.settings import EvaluationSettings
from weightsmith.files.digests import FileDigests, digest
from weightsmith.machine import available_cores
from weightsmith.model_card.describe_inputs import model_titles, weights_files
from weightsmith.model_card.provenance import listed
from weightsmith.models.live_model import fill_model
from weightsmith.models.model import Model
from weightsmith.models.open_model import open_model
from weightsmith.planning.plan import Plan
from weightsmith.recipe.recipe import Recipe, load_recipe
from weightsmith.tokenizer.merged_tokenizer import tokenizer_model
from weightsmith.tokenizer.untrusted.try_tokenizer import try_tokenizer

Source = str | Path | Recipe  # a model reference, a recipe's path, or a recipe
Log = Callable[[str], None]


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be asked. `key`: names the content of the weights and what they are computed in."""

    label: str
    reference: str
    backend: Backend
    key: str


@dataclass(frozen=True)
class OpenedModel:
    """A model, or the plan of a merge, which is computed in memory when it is loaded."""

    label: str
    reference: str
    content: Model | Plan

    @property
    def files(self) -> list[Path]:
        """Where it is read."""
        models = list(self.content.models.values()) if isinstance(self.content, Plan) else [self.content]
        return [path for model in models for path in model.files]

    @property
    def title(self) -> str:
        """What a stranger is told of it: ids of the hub or last names, never where it lies."""
        if isinstance(self.content, Plan):
            return f"{self.content.method.name} of {listed(list(model_titles(self.content.models).values()))}"
        return model_titles({self.reference: self.content})[self.reference]

    @property
    def bytes(self) -> int | None:
        """Of its files of weights; None of a merge."""
        if isinstance(self.content, Plan):
            return None
        return sum(file.stat().st_size for path in self.content.files for file in weights_files(path))

    @contextmanager
    def load(self, settings: EvaluationSettings, digests: FileDigests | None, log: Log) -> Iterator[LoadedModel]:
        """`settings.precision` is not auto here; `digests`: None where answers are kept for this evaluation alone.
        Raises WeightsmithError."""
        threads = settings.threads or available_cores()
        precision = settings.precision
        if isinstance(self.content, Plan):
            with self._merged(self.content, settings, threads, log) as model:
                yield model
            return
        computed_in = "llama.cpp" if runs_in_llama_cpp(self.content) else precision_on(precision, settings.device)
        key = content_key(self.content, computed_in, digests) if digests else self.label
        backend = open_backend(
            self.content,
            precision=precision,
            memory=settings.memory,
            threads=threads,
            device=settings.device,
            log=log,
        )
        yield LoadedModel(self.label, self.reference, backend, key)

    @contextmanager
    def _merged(self, plan: Plan, settings: EvaluationSettings, threads: int, log: Log) -> Iterator[LoadedModel]:
        import torch

        from weightsmith.evaluation.backends.transformers.transformers_backend import PRECISIONS

        torch.set_num_threads(threads)
        precision = settings.precision
        for warning in plan.warnings:
            log(f"{self.label}: warning: {warning}")
        with UnwrittenModel(plan, self.reference) as described_model:

            def load() -> Any:
                log(f"{self.label}: merging in memory ({plan.method.name} of {len(plan.models)} models)")
                known = know_whole_model(plan, threads)
                weights = compute_tensors(known.tensors, plan.method, threads=threads)
                return fill_model(self.reference, plan.config, weights, PRECISIONS[precision])

            backend = transformers_backend(
                described_model,
                precision=precision,
                memory=settings.memory,
                device=settings.device,
                log=log,
                load=load,
            )
            key = digest([run_digest(plan, 0, 0, "cpu"), backend.precision])
            yield LoadedModel(self.label, self.reference, backend, key)


def open_models(models: Mapping[str, Source], settings: EvaluationSettings) -> list[OpenedModel]:
    """`models`: by label. Raises WeightsmithError for what is wrong with a model or a recipe."""
    return [_open(label, source, settings) for label, source in models.items()]


def _open(label: str, source: Source, settings: EvaluationSettings) -> OpenedModel:
    if isinstance(source, Recipe) or (Path(source).suffix in (".yml", ".yaml") and Path(source).is_file()):
        recipe = source if isinstance(source, Recipe) else load_recipe(Path(source))
        plan = open_plan(recipe)
        try_tokenizer(tokenizer_model(plan.home, plan.vocabulary).home)
        return OpenedModel(label, str(recipe.file.path), plan)
    model = open_model(str(source))
    check_usable(model, chat=settings.chat)
    return OpenedModel(label, str(source), model)
