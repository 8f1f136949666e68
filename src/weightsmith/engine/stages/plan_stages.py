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
from weightsmith.planning.make_plan import make_plan, model_references
from weightsmith.planning.plan import Plan
from weightsmith.recipe.documents import stage_in
from weightsmith.recipe.recipe import Recipe, load_recipe


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
    written: Mapping[str, Path] | None = None,
) -> Plan:
    """As `make_plan`, of a recipe that may have stages. `written`: the folders of stages that are on the disk; others
    are computed as they are read. `headers_only`: of models of the hub nothing else is fetched; `to_be_run`: else the
    plan is for reading only, and stages that have to be written are planned all the same; `state_dicts`: models may be
    files of weights alone. Raises CheckpointError, RecipeError, or PlanError, also for a stage that has to be written
    first."""
    folders = dict(written or {})
    streamed: dict[str, Model] = {}

    def opener(reference: str, beside: Path) -> Model:
        stage = stage_in(reference, recipe.stages)
        if stage is None:
            return open_model(reference, beside=beside, headers_only=headers_only, state_dicts=state_dicts)
        if stage in folders:
            return _renamed(open_model(str(folders[stage]) + reference.removeprefix(stage), beside=beside), reference)
        if reference not in streamed:
            plan = plan_of(recipe.stages[stage])
            if to_be_run and (reference != stage or not can_stream(plan)):
                raise PlanError(
                    f"{recipe.line_of(reference)}: the stage {stage!r} has to be written before it can be used (it has "
                    "a tokenizer of its own, or gets an adapter); `weightsmith merge` does that",
                    **recipe.place_of(reference),
                )
            streamed[reference] = stage_model(reference, plan, seed)
        return streamed[reference]

    def concerns(model: str, part: Recipe) -> bool:
        if model in _references(part):
            return True
        return part is recipe and not any(model in _references(stage) for stage in recipe.stages.values())

    def plan_of(part: Recipe) -> Plan:
        return make_plan(
            part,
            mappings={model: file for model, file in (mappings or {}).items() if concerns(model, part)},
            accept_mapping=accept_mapping,
            allow_different_settings=allow_different_settings,
            opener=opener,
        )

    return plan_of(recipe)


def stages_to_write(recipe: Recipe, *, all_of_them: bool) -> list[str]:
    """The stages that a merge writes, each behind those that it uses: all, or those that cannot be computed as they are
    read. Raises what planning them raises."""
    order: list[str] = []
    for reference in _references(recipe):
        _add(recipe, reference, order)
    if all_of_them:
        return order
    parts = (recipe, *recipe.stages.values())
    with_adapter = {stage_in(r, recipe.stages) for part in parts for r in _references(part) if r not in recipe.stages}
    return [name for name in order if name in with_adapter or _has_tokenizer(recipe.stages[name])]


def _has_tokenizer(stage: Recipe) -> bool:
    return bool(stage.schema.tokenizer or stage.schema.tokenizer_source or stage.schema.chat_template)


def _add(recipe: Recipe, reference: str, order: list[str]) -> None:
    name = stage_in(reference, recipe.stages)
    if name is None or name in order:
        return
    for inner in _references(recipe.stages[name]):
        _add(recipe, inner, order)
    order.append(name)


def _references(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys(model_references(recipe)))


def _renamed(model: Model, reference: str) -> Model:
    return replace(model, reference=reference)


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
    model.embed_tokens.weight [49152, 64] BF16: coder (weight 1, density 0.5), writer (weight 1, density 0.5), ...
    """
    return open_plan(
        load_recipe(recipe),
        mappings=mappings,
        accept_mapping=accept_mapping,
        allow_different_settings=allow_different_settings,
        state_dicts=True,
    )
