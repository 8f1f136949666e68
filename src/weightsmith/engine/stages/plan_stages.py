"""A recipe planned with the stages that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightsmith.engine.stages.stage_checkpoint import can_stream, stage_model
from weightsmith.errors import PlanError
from weightsmith.models.model import Model
from weightsmith.models.open_model import open_model
from weightsmith.planning.make_plan import make_plan
from weightsmith.planning.plan import Plan
from weightsmith.recipe.documents import stage_in
from weightsmith.recipe.recipe import Recipe, load_recipe, model_references


def open_plan(
    recipe: Recipe,
    *,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
    allow_different_settings: bool = False,
    headers_only: bool = False,
    to_be_run: bool = True,
    state_dicts: bool = False,
    seed: int = 0,
    tolerant: bool = False,
    written: Mapping[str, Path] | None = None,
) -> Plan:
    """As `make_plan`, of a recipe that may have stages. `written`: the folders of stages that are on the disk; others
    are computed as they are read. `headers_only`: of models of the hub nothing else is fetched; `to_be_run`: else the
    plan is for reading only, and stages that have to be written are planned all the same; `state_dicts`: models may be
    files of weights alone; `seed` and `tolerant` (of NaN and infinity in inputs) are those of stages that are computed
    as they are read. Raises CheckpointError, RecipeError, or PlanError, also for a stage that has to be written
    first."""
    folders = dict(written or {})
    opened: dict[str, Model] = {}  # a model of several stages is opened once
    bases: dict[Path, Model] = {}  # and so is the base of several adapters
    about_stages: list[str] = []
    of_stages = {reference for name in recipe.used_stages for reference in model_references(recipe.stages[name])}

    def opener(reference: str, beside: Path) -> Model:
        if reference not in opened:
            opened[reference] = open_new(reference, beside)
        return opened[reference]

    def open_new(reference: str, beside: Path) -> Model:
        stage = stage_in(reference, recipe.stages)
        if stage is None:
            return open_model(reference, beside=beside, headers_only=headers_only, state_dicts=state_dicts, bases=bases)
        if stage in folders:
            model = open_model(str(folders[stage]) + reference.removeprefix(stage), beside=beside)
            return replace(model, reference=reference)
        plan = plan_of(recipe.stages[stage])
        if to_be_run and (reference != stage or not can_stream(plan)):
            raise PlanError(
                f"{recipe.line_of(reference)}: the stage {stage!r} has to be written before it can be used (it has "
                "a tokenizer of its own, or gets an adapter); `weightsmith merge` does that",
                **recipe.place_of(reference),
            )
        about_stages.extend(f"stage {stage!r}: {warning}" for warning in plan.warnings)
        return stage_model(reference, plan, seed, tolerant=tolerant)

    def plan_of(part: Recipe) -> Plan:
        own = set(model_references(part))
        return make_plan(
            part,
            # what no stage has is the output's, which refuses it
            mappings={
                m: file for m, file in (mappings or {}).items() if m in own or (part is recipe and m not in of_stages)
            },
            accept_mapping=accept_mapping,
            allow_different_settings=allow_different_settings,
            opener=opener,
        )

    output = plan_of(recipe)
    origins = {
        reference: output.models.get(reference, model)
        for reference, model in opened.items()
        if stage_in(reference, recipe.stages) in (None, *folders)
    }
    return replace(output, warnings=(*about_stages, *output.warnings), origins=origins)


def stages_to_write(recipe: Recipe, *, all_of_them: bool) -> list[str]:
    """The stages that a merge writes, each behind those that it uses: all, or those that cannot be computed as they are
    read."""
    if all_of_them:
        return recipe.used_stages
    parts = (recipe, *(recipe.stages[name] for name in recipe.used_stages))
    references = {reference for part in parts for reference in model_references(part)}
    with_adapter = {stage_in(reference, recipe.stages) for reference in references - recipe.stages.keys()}
    return [name for name in recipe.used_stages if name in with_adapter or _has_tokenizer(recipe.stages[name])]


def _has_tokenizer(stage: Recipe) -> bool:
    return bool(stage.schema.tokenizer or stage.schema.tokenizer_source or stage.schema.chat_template)


def plan(
    recipe: Recipe | Path | str | Mapping[str, Any],
    *,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
    allow_different_settings: bool = False,
) -> Plan:
    """What a merge would do: for every output tensor its sources and the values of all parameters. No weight is read.

    `recipe`: a `Recipe`, a file, or a mapping; `mappings`, `accept_mapping` and `allow_different_settings` as in
    `merge`. `print(plan(...))` shows a line per tensor. Raises CheckpointError, RecipeError or PlanError for all that a
    merge would refuse.

    >>> print(ws.plan("ties.yml"))  # doctest: +ELLIPSIS
    ties: 3 models, 20 tensors
    model.embed_tokens.weight [4096, 64] BF16: coder (weight 1, density 0.5), writer (weight 1, density 0.5), ...
    """
    return open_plan(
        load_recipe(recipe),
        mappings=mappings,
        accept_mapping=accept_mapping,
        allow_different_settings=allow_different_settings,
        state_dicts=True,
    )
