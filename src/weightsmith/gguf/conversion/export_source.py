"""What is exported: a model in any naming, or a merge that is computed while it is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightsmith.checkpoint.checkpoint import natural_key, read_tensor
from weightsmith.engine.output.run_digest import copy_digest, run_digest
from weightsmith.engine.stages.plan_stages import open_plan
from weightsmith.gguf.conversion.added_tokens import list_added_tokens
from weightsmith.gguf.conversion.fit_vocabulary import fit_vocabulary
from weightsmith.machine import available_cores
from weightsmith.methods.method import Method
from weightsmith.methods.passthrough import Passthrough
from weightsmith.methods.tensor_settings import Settings
from weightsmith.models.model import Model
from weightsmith.models.multimodal import text_names
from weightsmith.models.naming.translate_config import published
from weightsmith.models.open_model import open_model
from weightsmith.models.parts.embeddings import embedding_rows
from weightsmith.planning.plan import Plan, TensorPlan, TensorSource
from weightsmith.recipe.recipe import load_recipe
from weightsmith.tokenizer.alignment import Alignment
from weightsmith.tokenizer.merged_tokenizer import write_merged_tokenizer
from weightsmith.tokenizer.sentencepiece.sentencepiece_model import restore_sentencepiece

if TYPE_CHECKING:
    import torch

    from weightsmith.engine.run_tensors import RunSettings


@dataclass(frozen=True)
class ExportJob:
    """A model's reference, or the path of a recipe and the options of its merge; it goes to another process as JSON."""

    model: str | None = None
    recipe: str | None = None
    seed: int = 0
    tolerant: bool = False  # NaN and infinities in the inputs are let through
    mappings: dict[str, str] = field(default_factory=dict)
    accept_mapping: bool = False
    allow_different_settings: bool = False


@dataclass(frozen=True)
class ExportSource:
    """`tensors` in the order they are written in; nothing is computed before it is asked for."""

    reference: str
    name: str  # for people
    identity: dict[str, str]  # equal where all that is written is
    config: dict[str, Any]
    tensors: tuple[TensorPlan, ...]
    files: tuple[Path, ...]  # every path that the weights come from
    method: Method
    seed: int
    tolerant: bool
    home: Model
    vocabulary: Alignment | None
    warnings: tuple[str, ...] = ()
    chat_template: str | None = None  # instead of the tokenizer's own
    plan: Plan | None = None  # of a merge

    @property
    def run_settings(self) -> RunSettings:
        from weightsmith.engine.run_tensors import RunSettings

        return RunSettings(self.seed, self.tolerant)

    @cached_property
    def ready_tensors(self) -> tuple[TensorPlan, ...]:
        """`tensors` with what a method has to know of the whole model, which is read for that. Raises
        CheckpointError."""
        from weightsmith.engine.know_whole_model import know_whole_model

        return know_whole_model(self.plan, available_cores(), self.run_settings).tensors if self.plan else self.tensors

    @property
    def nbytes(self) -> int:
        return sum(tensor.info.nbytes for tensor in self.tensors)

    @property
    def other_parts(self) -> int:
        """How many tensors of a multimodal model its language model does not have."""
        names = {tensor.name for tensor in self.tensors}
        text = set(text_names(names).values())
        return len(names - text) if text else 0

    @property
    def main_dtype(self) -> str:
        """That of most weights, as safetensors spells it."""
        counted: Counter[str] = Counter()
        for tensor in self.tensors:
            counted[tensor.info.dtype] += tensor.info.numel
        return counted.most_common(1)[0][0] if counted else "F32"

    def load(self, tensor: TensorPlan) -> torch.Tensor:
        """The tensor in its own dtype and shape. Raises MergeError."""
        if tensor.copy:
            return read_tensor(tensor.sources[0].model.checkpoint, tensor.sources[0].tensor)
        from weightsmith.engine.in_memory import compute_tensors

        ready = next(one for one in self.ready_tensors if one.name == tensor.name)
        return compute_tensors([ready], self.method, settings=self.run_settings)[tensor.name]

    def stage(self, folder: Path) -> list[str]:
        """Write what a Hugging Face folder has beside its weights: config.json and tokenizer, fitted to the embedding;
        never any code. Returns what had to be done for it, in words. Raises ExportError."""
        config = published(self.config, [tensor.info for tensor in self.tensors])
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_merged_tokenizer(self.home, self.vocabulary, self.chat_template, folder)
        rows = embedding_rows({tensor.name: tensor.info for tensor in self.tensors})
        notes = [f"vocabulary: {line}" for line in fit_vocabulary(folder, rows, self.reference)] if rows else []
        list_added_tokens(folder)
        if restore_sentencepiece(folder):
            notes.append("tokenizer: has no tokenizer.model, which was rebuilt from tokenizer.json")
        return notes


def open_source(job: ExportJob) -> ExportSource:
    """Reads headers only. Raises CheckpointError, RecipeError or PlanError."""
    if job.recipe is not None:
        mappings: Mapping[str, Path] = {model: Path(file) for model, file in job.mappings.items()}
        plan = open_plan(
            load_recipe(job.recipe),
            seed=job.seed,
            tolerant=job.tolerant,
            mappings=mappings,
            accept_mapping=job.accept_mapping,
            allow_different_settings=job.allow_different_settings,
        )
        return source_of_plan(plan, job.seed, tolerant=job.tolerant)
    return source_of_model(open_model(job.model or ""))


def source_of_plan(plan: Plan, seed: int, *, tolerant: bool = False) -> ExportSource:
    """A merge, bit for bit what `merge` would write."""
    files = tuple(file for model in plan.models.values() for file in model.files)
    path = plan.recipe.file.path
    return ExportSource(
        str(path),
        path.stem,
        run_digest(plan, 0, seed, "cpu"),
        plan.config,
        plan.tensors,
        files,
        plan.method,
        seed,
        tolerant,
        plan.home,
        plan.vocabulary,
        plan.warnings,
        plan.chat_template,
        plan,
    )


def source_of_model(model: Model) -> ExportSource:
    """A model's own tensors."""
    nothing = Settings({}, (), None)
    tensors = [
        TensorPlan(name, info, (TensorSource(model, name),), nothing, info.dtype, copy=True)
        for name, info in model.checkpoint.tensors.items()
    ]
    ordered = tuple(sorted(tensors, key=lambda tensor: natural_key(tensor.name)))
    name = "-".join(file.stem if file.is_file() else file.resolve().name for file in model.files)
    return ExportSource(
        model.reference,
        name,
        copy_digest(model, ordered, 0, []),
        model.config,
        ordered,
        model.files,
        Passthrough(),
        0,
        False,
        model,
        None,
    )
