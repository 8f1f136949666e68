"""`weightsmith run`: merge, export, evaluate and report from one file, reusing what has not changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weightsmith.engine.merge import merge
from weightsmith.engine.stages.plan_stages import open_plan
from weightsmith.evaluation.results.score_tables import EvaluationTables
from weightsmith.files.find_path import is_file, path_beside
from weightsmith.files.inputs.yaml_file import YamlFile, read_yaml
from weightsmith.files.output_folder import check_output
from weightsmith.files.suggestions import nearest
from weightsmith.files.work_folder import work_folder
from weightsmith.gguf.conversion.conversion import PLAIN_TYPES
from weightsmith.gguf.export import export
from weightsmith.gguf.fidelity import Fidelity, describe_fidelity
from weightsmith.llama_cpp import quantization_types
from weightsmith.models.model import Model
from weightsmith.models.open_model import open_model
from weightsmith.pipeline.card_stage import run_card_stage
from weightsmith.pipeline.evaluate_stage import EvaluateJob, check_evaluation, run_evaluate_stage
from weightsmith.pipeline.pipeline_file import MERGED, Pipeline
from weightsmith.pipeline.report_stage import run_movement_stage, run_report_stage
from weightsmith.pipeline.stages import RECORDS, Stage, Stages
from weightsmith.planning.plan import Plan
from weightsmith.progress import OnProgress, no_progress
from weightsmith.recipe.recipe import Recipe, load_recipe
from weightsmith.tokenizer.merged_tokenizer import tokenizer_model
from weightsmith.tokenizer.untrusted.try_tokenizer import try_tokenizer

Log = Callable[[str], None]


@dataclass(frozen=True)
class RunSummary:
    """`evaluation` and `report` (the HTML page) are None where the pipeline has no such stage."""

    out: Path
    stages: tuple[Stage, ...]
    evaluation: EvaluationTables | None
    report: Path | None


@dataclass(frozen=True)
class CheckedPipeline:
    """A pipeline of which every part was opened once, before any work."""

    file: YamlFile
    pipeline: Pipeline
    recipe: Recipe
    plan: Plan
    evaluation: EvaluateJob | None


def run(
    pipeline: Path | str,
    out: Path | str,
    *,
    threads: int | None = None,
    force: bool = False,
    log: Log = lambda text: None,
    on_progress: OnProgress = no_progress,
) -> RunSummary:
    """Run a pipeline file into the folder `out`: merged/, gguf/, evaluation/, report.md, report.html.

    A stage whose recipe, models, data and settings are what they were is not done again; `force` takes a folder that
    holds something else than an earlier run. Paths in the file are relative to the working directory or to the file.
    Raises WeightsmithError, and keeps the stages that were finished.

    >>> [stage.name for stage in ws.run("pipeline.yml", "out").stages]
    ['merge', 'export f16', 'export q8_0', 'evaluate', 'report']
    """
    log = _each_warning_once(log)
    checked = check_pipeline(read_yaml(Path(pipeline)))
    for warning in checked.plan.warnings:
        log(f"warning: {warning}")
    out = Path(out).absolute()
    if not (out / RECORDS).is_dir():
        inputs = tuple(path for model in checked.plan.models.values() for path in model.files)
        check_output(out, force=force, inputs=inputs)
    with work_folder(out, is_worth_keeping=lambda: any((out / RECORDS).glob("*-*.json"))):
        stages = Stages(out, log)
        merged = _merge(checked, out, stages, threads, log, on_progress)
        exports = _export(checked, out, stages, merged, threads, log, on_progress)
        tables = None
        if checked.evaluation:
            models = _scored_models(checked, checked.evaluation.scored, out, stages, merged, exports)
            tables = run_evaluate_stage(checked.evaluation, models, out, stages, threads, log, on_progress)
        scored = checked.evaluation.scored if checked.evaluation else {}
        run_card_stage(out, stages, {kind: path for kind, (path, _) in exports.items()}, scored, tables, log)
        page = None
        if checked.pipeline.report is not None:
            movement = None
            if checked.pipeline.report.compare:
                identities = {name: _identity(stages, model) for name, model in checked.plan.models.items()}
                movement = run_movement_stage(checked.plan, identities, stages, threads, on_progress)
            page = run_report_stage(checked.plan, checked.pipeline.report.title, out, stages, tables, movement)
        return RunSummary(out, tuple(stages.done), tables, page)


def check_pipeline(file: YamlFile, *, headers_only: bool = False) -> CheckedPipeline:
    """Open every part once. `headers_only`: of hub models too, whose weights are then not fetched; such a plan is not
    run. Raises WeightsmithError for what `run` would refuse."""
    pipeline = file.validate(Pipeline)
    if isinstance(pipeline.merge, str):
        recipe = load_recipe(_existing(file, ["merge"], pipeline.merge))
    else:
        recipe = load_recipe(file.part("merge"))
    known_types = [*PLAIN_TYPES, *quantization_types()] if pipeline.export else []
    for i, gguf_type in enumerate(pipeline.export):
        if gguf_type not in known_types:
            raise file.error(["export", i], f"unknown GGUF type {gguf_type!r}{nearest(gguf_type, known_types)}")
    plan = open_plan(recipe, headers_only=headers_only, to_be_run=not headers_only)
    home = tokenizer_model(plan.home, plan.vocabulary)
    evaluation = check_evaluation(file, pipeline.evaluate, pipeline.export) if pipeline.evaluate else None
    if pipeline.export:
        try_tokenizer(home.home)
    if evaluation and any(reference.startswith("$") for reference in evaluation.scored.values()):
        from weightsmith.evaluation.backends.open_backend import check_usable

        check_usable(home, chat=evaluation.settings.chat)
    return CheckedPipeline(file, pipeline, recipe, plan, evaluation)


def _existing(file: YamlFile, keys: list[str | int], name: str) -> Path:
    path = path_beside(name, file.path.parent)
    if not is_file(path):
        raise file.error(keys, f"{name}: no such file")
    return path


def _identity(stages: Stages, model: Model) -> list[str]:
    return [stages.files.of(path) for path in model.files]


def _each_warning_once(log: Log) -> Log:
    """Several stages say the same of the inputs' licenses."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            log(text)
        if text.startswith("warning: "):
            said.add(text)

    return say


def _merge(
    checked: CheckedPipeline, out: Path, stages: Stages, threads: int | None, log: Log, on_progress: OnProgress
) -> Stage:
    folder = out / "merged"

    def work() -> dict:
        summary = merge(checked.recipe, folder, threads=threads, force=True, on_progress=on_progress)
        if summary.license_warning:
            log(f"warning: {summary.license_warning}")
        return {k: v for k, v in asdict(summary).items() if k != "out"}

    models = {name: _identity(stages, model) for name, model in checked.plan.models.items()}
    depends = {"recipe": checked.recipe.schema.model_dump(), "models": models, "method": checked.plan.method.identity}
    return stages.run("merge", depends, [folder], work)


def _export(
    checked: CheckedPipeline,
    out: Path,
    stages: Stages,
    merged: Stage,
    threads: int | None,
    log: Log,
    on_progress: OnProgress,
) -> dict[str, tuple[Path, Stage]]:
    """Quantized types are made from one f16 file, which is a stage of its own whether or not it was asked for."""
    types = checked.pipeline.export
    exports: dict[str, tuple[Path, Stage]] = {}
    first = ["f16"] if any(gguf_type == "f16" or gguf_type not in PLAIN_TYPES for gguf_type in types) else []
    for gguf_type in [*first, *(gguf_type for gguf_type in types if gguf_type != "f16")]:
        path = out / "gguf" / f"merged-{gguf_type}.gguf"

        def work(path: Path = path, gguf_type: str = gguf_type) -> dict:
            summary = export(
                out / "merged",
                path.parent,
                types=gguf_type,
                intermediate="f16",
                threads=threads,
                force=True,
                log=log,
                on_progress=on_progress,
            )
            (file,) = summary.files
            fidelity = file.fidelity
            return {
                "bytes": file.bytes,
                "found": describe_fidelity(fidelity) if fidelity else "",
                "divergence": fidelity.divergence if isinstance(fidelity, Fidelity) else None,
            }

        exports[gguf_type] = (
            path,
            stages.run(f"export {gguf_type}", {"merge": merged.key, "type": gguf_type}, [path], work),
        )
    return exports


def _scored_models(
    checked: CheckedPipeline,
    scored: dict[str, str],
    out: Path,
    stages: Stages,
    merged: Stage,
    exports: dict[str, tuple[Path, Stage]],
) -> list[tuple[str, str, Any]]:
    """Label, reference, and what the content is known by."""
    models_to_score: list[tuple[str, str, Any]] = []
    for label, reference in scored.items():
        if reference == MERGED:
            models_to_score.append((label, str(out / "merged"), merged.key))
        elif reference.startswith("$"):
            path, stage = exports[reference[1:]]
            models_to_score.append((label, str(path), stage.key))
        else:
            opened = open_model(reference, beside=checked.file.path.parent)
            models_to_score.append((label, "+".join(map(str, opened.files)), _identity(stages, opened)))
    return models_to_score
