"""The model card of a merge, and `provenance.json` beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from weightsmith.model_card.card import Card, write_card
from weightsmith.model_card.describe_inputs import describe_inputs
from weightsmith.model_card.license import license_of
from weightsmith.model_card.provenance import InputModel, Provenance, listed, read_provenance
from weightsmith.model_card.public_recipe import public_recipe
from weightsmith.model_card.usage import usage_of_adapter, usage_of_folder
from weightsmith.models.model import Model
from weightsmith.planning.plan import Plan
from weightsmith.progress import OnProgress, no_progress
from weightsmith.recipe.documents import stage_in

_LONGEST = 80  # letters of a title's list of models


def write_merge_card(
    folder: Path,
    plan: Plan,
    *,
    seed: int,
    threads: int,
    adapter: bool = False,
    on_progress: OnProgress = no_progress,
) -> str | None:
    """Write both into the finished `folder`; nothing in them depends on its name. `adapter`: it is a LoRA adapter on
    the plan's home. The files of inputs that are not from the hub are hashed, on `threads`. Returns what is to
    be said about the license. Raises OSError."""
    provenance = Provenance(
        plan.method.name,
        public_recipe(plan.recipe, plan.origins),
        describe_origins(plan, threads, on_progress),
        seed if plan.method.random else None,
        tuple(map(str, plan.config.get("architectures") or ())),
    )
    provenance.write(folder)
    home = _title_of(provenance, plan) if adapter else ""
    card = Card(
        merge_title(provenance, plan.method.title),
        "adapter" if adapter else "merge",
        provenance,
        plan.method.title,
        plan.method.paper_address,
        usage_of_adapter(home) if adapter else usage_of_folder(folder),
    )
    write_card(folder, card)
    return license_of(provenance.inputs).warning


def merge_title(provenance: Provenance, method: str) -> str:
    """`TIES of base, coder and writer`; of many models, their number."""
    titles = [model.title for model in provenance.inputs]
    few = listed(titles)
    return f"{method} of {few if len(few) <= _LONGEST else f'{len(titles)} models'}"


def describe_origins(plan: Plan, threads: int, on_progress: OnProgress = no_progress) -> tuple[InputModel, ...]:
    """The models that a merge and its stages read, each once."""
    stages = plan.recipe.stages
    own = {reference: model for reference, model in plan.origins.items() if stage_in(reference, stages) is None}
    inputs = list(describe_inputs(own.values(), threads=threads, on_progress=on_progress))
    for reference, model in plan.origins.items():
        if reference not in own:
            inputs += _of_written_stage(model, threads)
    return tuple(dict.fromkeys(inputs))


def _of_written_stage(stage: Model, threads: int) -> list[InputModel]:
    """What a stage that was written is made from, and the adapters that are added to it."""
    before = read_provenance(stage.files[0])
    adapters = [replace(stage, files=(path,)) for path in stage.files[1:]]
    return [*(before.inputs if before else ()), *describe_inputs(adapters, threads=threads)]


def _title_of(provenance: Provenance, plan: Plan) -> str:
    """What the card calls the model that gives the config."""
    numbers = {reference: number for number, reference in enumerate(plan.origins)}
    number = numbers.get(plan.home.reference, 0)
    return provenance.inputs[number].title if number < len(provenance.inputs) else plan.home.home.name
