"""`weightsmith merge`: a recipe to a Hugging Face folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.engine.output_folder import check_output, output_folder
from weightsmith.engine.run_plan import Progress, run_tensors
from weightsmith.recipe.load import load_recipe
from weightsmith.recipe.plan import Plan, make_plan
from weightsmith.recipe.yaml_file import YamlFile
from weightsmith.tokenizer.extended import extend_tokenizer
from weightsmith.tokenizer.files import write_tokenizer_files

RECIPE_COPY = "merge_recipe.yml"
DEFAULT_SHARD_BYTES = 5_000_000_000
FREE_FOR_SMALL_FILES = 32 << 20


@dataclass(frozen=True)
class MergeSummary:
    """What a finished merge can say of itself."""

    out: Path
    method: str
    models: int
    tensors: int
    read_bytes: int
    written_bytes: int
    seconds: float
    trim_ties: int


def default_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def merge(
    recipe: Path | str | YamlFile,
    out: Path | str,
    *,
    threads: int | None = None,
    out_shard_size: int = DEFAULT_SHARD_BYTES,
    force: bool = False,
    progress: Progress | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
) -> MergeSummary:
    """Merge as `recipe` says into the new folder `out`: weights, config, tokenizer, chat template and the recipe.

    `out_shard_size` is in bytes; `progress` receives (bytes written, bytes in all). The bytes written do not depend on
    `threads`. `mappings` and `accept_mapping` are for models in a layout of their own (docs/naming-schemes.md). Raises RecipeError, CheckpointError, PlanError or OutputError, and then leaves nothing behind.
    """
    started, out = time.monotonic(), Path(out)
    loaded = load_recipe(recipe)
    check_output(out, force=force)
    plan = make_plan(loaded, mappings=mappings, accept_mapping=accept_mapping)
    if on_plan:
        on_plan(plan)
    inputs = tuple(path for model in plan.models.values() for path in model.files)
    with output_folder(
        out, force=force, needed_bytes=plan.output_bytes + FREE_FOR_SMALL_FILES, inputs=inputs
    ) as folder:
        writer = ShardWriter(folder, {t.name: t.info for t in plan.tensors}, out_shard_size)
        try:
            tally = run_tensors(plan.tensors, plan.method, writer, threads or default_threads(), progress)
        finally:
            writer.close(sync=False)
        write_tokenizer_files(plan.vocabulary.home if plan.vocabulary else plan.home, folder)
        if plan.vocabulary:
            extend_tokenizer(plan.vocabulary, folder)
        (folder / "config.json").write_text(json.dumps(plan.config, indent=2) + "\n", encoding="utf-8")
        (folder / RECIPE_COPY).write_text(loaded.file.text, encoding="utf-8")
    return MergeSummary(
        out, plan.method.name, len(plan.models), len(plan.tensors), plan.read_bytes, plan.output_bytes,
        time.monotonic() - started, tally.ties,
    )  # fmt: skip
