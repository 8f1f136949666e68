"""The stage of a run that scores its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from weightsmith.errors import CheckpointError, WeightsmithError
from weightsmith.evaluation.open_suite import OpenSuite, open_suite
from weightsmith.evaluation.results.score_tables import EvaluationTables
from weightsmith.evaluation.settings import EvaluationSettings
from weightsmith.evaluation.tasks.suite import Suite, SuiteEntry, load_suite, suite_of
from weightsmith.files.find_path import is_file, path_beside
from weightsmith.files.inputs.yaml_file import YamlFile
from weightsmith.machine import usable_devices
from weightsmith.models.open_model import open_model
from weightsmith.pipeline.pipeline_file import MERGED, EvaluateStage
from weightsmith.pipeline.stages import Stages
from weightsmith.progress import OnProgress
from weightsmith.units import parse_size, parse_time

FOLDER = "evaluation"


@dataclass(frozen=True)
class EvaluateJob:
    """What the pipeline asks for, once everything in it was found. `scored`: label -> reference, or an output of the
    run."""

    scored: dict[str, str]
    suites: tuple[OpenSuite, ...]
    settings: EvaluationSettings
    base: str | None
    parents: tuple[str, ...]


def check_evaluation(file: YamlFile, stage: EvaluateStage, exports: Sequence[str]) -> EvaluateJob:
    """Opens models and loads tasks; raises WeightsmithError with the line of the pipeline. `exports`: GGUF types."""
    if not (stage.questions or stage.texts or stage.suites or stage.tasks):
        raise file.error(["evaluate"], "evaluate: nothing to evaluate; give `questions`, `texts`, `suites` or `tasks`")
    scored = stage.models or {"merged": MERGED} | {f"merged {gguf_type}": f"${gguf_type}" for gguf_type in exports}
    _check_models(file, scored, exports)
    base, parents = _roles(file, stage, scored)
    for key in ("questions", "texts"):
        for number, name in enumerate(getattr(stage, key)):
            if not is_file(path_beside(name, file.path.parent)):
                raise file.error(["evaluate", key, number], f"{name}: no such file")
    try:
        settings = _settings(stage, file.path.parent)
        suites = tuple(open_suite(suite, settings, {}) for suite in _suites(stage, file.path.parent))
    except WeightsmithError as error:
        raise file.error(["evaluate"], f"evaluate: {error}") from error
    return EvaluateJob(scored, suites, settings, base, parents)


def run_evaluate_stage(
    job: EvaluateJob,
    models: Sequence[tuple[str, str, Any]],
    out: Path,
    stages: Stages,
    threads: int | None,
    log: Callable[[str], None],
    on_progress: OnProgress,
) -> EvaluationTables:
    """`models`: label, reference, and what its content is known by. Writes `out`/evaluation; answers that are there
    already are used again."""
    from weightsmith.evaluation.evaluate import evaluate_suites
    from weightsmith.evaluation.opened_model import open_models
    from weightsmith.report.evaluation_files import TABLE, TABLES, write_evaluation

    folder = out / FOLDER

    def work() -> dict[str, Any]:
        settings = replace(job.settings, threads=threads)
        evaluation = evaluate_suites(
            open_models({label: reference for label, reference, _ in models}, settings),
            folder,
            job.suites,
            settings,
            base=job.base,
            parents=job.parents,
            digests=stages.files,
            log=log,
            on_progress=on_progress,
        )
        write_evaluation(evaluation, folder)
        return evaluation.tables().as_json()

    depends = {
        "models": [(label, identity) for label, _, identity in models],
        "suites": [_content(suite, stages) for suite in job.suites],
        "settings": {key: str(value) for key, value in asdict(job.settings).items()},
        "roles": [job.base, job.parents],
        "data": stages.files.of(job.settings.data) if job.settings.data else "",
    }
    return EvaluationTables.from_json(stages.run("evaluate", depends, [folder / TABLES, folder / TABLE], work).result)


def _check_models(file: YamlFile, scored: Mapping[str, str], exports: Sequence[str]) -> None:
    for label, reference in scored.items():
        if reference.startswith("$"):
            outputs = [MERGED, *(f"${gguf_type}" for gguf_type in exports)]
            if reference not in outputs:
                raise file.error(
                    ["evaluate", "models", label],
                    f"{reference!r} is not an output of this run; known: {', '.join(outputs)}",
                )
        else:
            try:
                open_model(reference, beside=file.path.parent)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{file.path}:{file.line(['evaluate', 'models', label])}: {error}",
                    path=file.path,
                    line=file.line(["evaluate", "models", label]),
                ) from error


def _roles(file: YamlFile, stage: EvaluateStage, scored: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """The base's label, by default the first, and the parents', by default all that the run does not make."""
    for key, labels in (("base", [stage.base] if stage.base else []), ("parents", stage.parents or [])):
        for label in labels:
            if label not in scored:
                raise file.error(["evaluate", key], f"{label!r} is not one of the models; they are {', '.join(scored)}")
    base = stage.base or next(iter(scored))
    parents = stage.parents
    if parents is None:
        parents = [label for label, reference in scored.items() if label != base and not reference.startswith("$")]
    return base if len(scored) > 1 else None, tuple(parents)


def _settings(stage: EvaluateStage, folder: Path) -> EvaluationSettings:
    return EvaluationSettings(
        limit=stage.limit,
        budget=parse_time(stage.budget, "budget") if stage.budget else None,
        fewshot=stage.fewshot,
        data=path_beside(stage.data, folder) if stage.data else None,
        include=tuple(path_beside(include, folder) for include in stage.include),
        chat=stage.chat,
        system=stage.system,
        precision=stage.precision,
        memory=parse_size(stage.memory, "memory") if stage.memory else None,
        device=usable_devices(stage.device),
    )


def _suites(stage: EvaluateStage, folder: Path) -> list[Suite]:
    """Of the names and files in the stage; tasks that are named one by one are a suite of their own."""
    names = [str(path) if is_file(path := path_beside(name, folder)) else name for name in stage.suites]
    entries = [SuiteEntry(task=name) for name in stage.tasks]
    entries += [SuiteEntry(questions=str(path_beside(name, folder))) for name in stage.questions]
    entries += [SuiteEntry(text=str(path_beside(name, folder))) for name in stage.texts]
    return [*map(load_suite, names), *([suite_of(entries)] if entries else [])]


def _content(suite: OpenSuite, stages: Stages) -> Any:
    """The suite, its question files and texts by what they hold, wherever they lie."""
    description = suite.suite.model_dump(exclude={"parts": {"__all__": {"tasks": {"__all__": {"questions", "text"}}}}})
    files = [[entry.name, stages.files.of(task.path)] for entry, task in suite.own.items()]
    return [description, files]
