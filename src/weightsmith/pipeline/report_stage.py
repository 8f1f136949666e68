"""The stages of a run that measure its inputs and write the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from weightsmith.evaluation.results.score_tables import EvaluationTables
from weightsmith.gguf.conversion.conversion import PLAIN_TYPES
from weightsmith.inspection.movement import Movement, measure_movement
from weightsmith.methods.registry import find_method
from weightsmith.model_card.describe_inputs import model_titles, part_names, without_paths
from weightsmith.model_card.license import license_of
from weightsmith.model_card.provenance import InputModel, Provenance, listed, read_provenance
from weightsmith.pipeline.stages import Stage, Stages
from weightsmith.planning.plan import Plan
from weightsmith.progress import OnProgress, counted
from weightsmith.report.report_facts import ReportFacts, ReportFile, ReportInput, ReportStep
from weightsmith.report.write_report import write_report

_MOVEMENT = TypeAdapter(Movement)


def run_movement_stage(
    plan: Plan, identities: Mapping[str, Any], stages: Stages, threads: int | None, on_progress: OnProgress
) -> Movement | None:
    """How far the inputs moved from the base; None where there is no base, or nothing beside it. Reads every weight
    once. `identities`: what the content of each model is known by."""
    base = plan.recipe.schema.base_model
    if base is None or base not in plan.models or len(plan.models) < 2:
        return None
    others = [model for reference, model in plan.models.items() if reference != base]
    titles = model_titles(plan.models)

    def work() -> dict[str, Any]:
        report = counted(on_progress, "comparing", "elements")
        movement = measure_movement(plan.models[base], others, threads=threads, on_progress=report)
        named = [titles[other.reference] for other in others]
        return asdict(movement) | {
            "names": named,
            "pairs": [
                asdict(pair) | {"first": titles[pair.first], "second": titles[pair.second]} for pair in movement.pairs
            ],
        }

    depends = {"models": dict(identities), "base": base}
    return _MOVEMENT.validate_python(stages.run("compare", depends, [], work).result, strict=False)


def run_report_stage(
    plan: Plan,
    title: str,
    out: Path,
    stages: Stages,
    evaluation: EvaluationTables | None,
    movement: Movement | None,
) -> Path:
    """`report.md` and `report.html` in `out`; returns the latter. Nothing in them tells where a model lies on this
    machine."""
    provenance = read_provenance(out / "merged")
    finished = list(stages.done)
    names = {str(path): name for path, name in _part_names(plan).items()}
    names |= {str(plan.recipe.file.path.absolute().parent): ".", str(Path.cwd()): ".", str(Path.home()): "~"}
    warnings = list(plan.warnings)
    if provenance and (about_license := license_of(provenance.inputs).warning):
        warnings.append(about_license)
    facts = ReportFacts(
        title,
        provenance.recipe if provenance and provenance.recipe else plan.recipe.file.text,
        tuple(file for stage in finished if (file := _file(stage))),
        tuple(ReportStep(stage.name, stage.seconds, stage.memory or None) for stage in finished),
        evaluation,
        _summary(provenance),
        tuple(without_paths(warning, names) for warning in warnings),
        tuple(map(_input, provenance.inputs)) if provenance else (),
        movement,
    )
    depends = {
        "keys": [stage.key for stage in finished],
        "title": title,
        "recipe": facts.recipe,
        "warnings": facts.warnings,
        "steps": [asdict(step) for step in facts.steps],
    }
    outputs = [out / "report.md", out / "report.html"]
    stages.run("report", depends, outputs, lambda: {"written": [path.name for path in write_report(facts, out)]})
    return outputs[1]


def _file(stage: Stage) -> ReportFile | None:
    gguf_type = stage.name.partition(" ")[2]
    if stage.name == "merge":
        how = f"{stage.result['method']} of {stage.result['models']} models"
        how += f", seed {stage.result['seed']}" if stage.result.get("seed") is not None else ""
        return ReportFile("merged/", stage.result["written_bytes"], how)
    if stage.name.startswith("export "):
        how = "llama.cpp's converter" if gguf_type in PLAIN_TYPES else "llama.cpp's quantizer"
        how += f"; {stage.result['found']}" if stage.result["found"] else ""
        divergence = stage.result.get("divergence")
        return ReportFile(f"gguf/merged-{gguf_type}.gguf", stage.result["bytes"], how, divergence)
    return None


def _summary(provenance: Provenance | None) -> str:
    if provenance is None or provenance.method is None:
        return ""
    method = find_method(provenance.method)
    titles = listed([model.title for model in provenance.inputs])
    return f"A merge of {titles}, by {method.title if method else provenance.method}."


def _input(model: InputModel) -> ReportInput:
    known_by = []
    for part in model.parts:
        hashes = [f"XXH3 {file.xxh3}" for file in part.files]
        known_by += [f"commit {part.revision}"] if part.revision else hashes
    return ReportInput(model.title, "; ".join(known_by), model.conversion or "as it is")


def _part_names(plan: Plan) -> dict[Path, str]:
    return part_names(list(dict.fromkeys(path for model in plan.origins.values() for path in model.files)))
