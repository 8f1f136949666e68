"""The stage of a run that asks the standard benchmarks of every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from weightsmith.errors import WeightsmithError
from weightsmith.evaluation.harness.suite_tasks import load_tasks
from weightsmith.evaluation.settings import BenchmarkSettings
from weightsmith.evaluation.tasks.suite import load_suite, suite_of_tasks
from weightsmith.files.find_path import path_beside
from weightsmith.files.yaml_file import YamlFile
from weightsmith.pipeline.pipeline_file import EvaluateStage
from weightsmith.pipeline.stages import Stages
from weightsmith.report.benchmark_tables import BenchmarkTables, tables_of
from weightsmith.units import parse_size, parse_time

FOLDER = "benchmarks"


@dataclass(frozen=True)
class BenchmarkJob:
    """What the pipeline asks for, once everything in it was found."""

    suites: tuple[str, ...]
    tasks: tuple[str, ...]
    settings: BenchmarkSettings
    base: str | None
    parents: tuple[str, ...]


def check_benchmarks(file: YamlFile, stage: EvaluateStage, scored: Mapping[str, str]) -> BenchmarkJob | None:
    """None where no suite and no task is named. `scored`: label -> reference. Loads the tasks' data; raises
    WeightsmithError with the line of the pipeline."""
    if not stage.suites and not stage.tasks:
        return None
    folder = file.path.parent
    suites = [str(benchmarks) if (benchmarks := path_beside(name, folder)).is_file() else name for name in stage.suites]
    data = path_beside(stage.data, folder) if stage.data else None
    for key, labels in (("base", [stage.base] if stage.base else []), ("parents", stage.parents or [])):
        for label in labels:
            if label not in scored:
                raise file.error(["evaluate", key], f"{label!r} is not one of the models; they are {', '.join(scored)}")
    try:
        settings = BenchmarkSettings(
            limit=stage.limit,
            budget=parse_time(stage.budget, "budget") if stage.budget else None,
            fewshot=stage.fewshot,
            data=data,
            include=tuple(path_beside(include, folder) for include in stage.include),
            chat=stage.chat,
            system=stage.system,
            precision=stage.precision,
            memory=parse_size(stage.memory, "memory") if stage.memory else None,
        )
        for suite in [*map(load_suite, suites), *([suite_of_tasks(stage.tasks)] if stage.tasks else [])]:
            load_tasks(suite, data=data, fewshot=stage.fewshot, include=settings.include)
    except WeightsmithError as error:
        raise file.error(["evaluate"], f"evaluate: {error}") from error
    base = stage.base or next(iter(scored))
    parents = stage.parents
    if parents is None:
        parents = [label for label, reference in scored.items() if label != base and not reference.startswith("$")]
    return BenchmarkJob(tuple(suites), tuple(stage.tasks), settings, base if len(scored) > 1 else None, tuple(parents))


def run_benchmark_stage(
    job: BenchmarkJob,
    models: Sequence[tuple[str, str, Any]],
    out: Path,
    stages: Stages,
    threads: int | None,
    log: Callable[[str], None],
) -> list[BenchmarkTables]:
    """`models`: label, reference, and what its content is known by. Writes `out`/benchmarks."""
    from weightsmith.evaluation.run_benchmarks import run_benchmarks
    from weightsmith.report.benchmark_files import write_benchmarks

    folder = out / FOLDER

    def work() -> dict[str, Any]:
        benchmarks = run_benchmarks(
            {label: reference for label, reference, _ in models},
            folder,
            suites=job.suites,
            tasks=job.tasks,
            base=job.base,
            parents=job.parents,
            settings=replace(job.settings, threads=threads),
            log=log,
        )
        write_benchmarks(benchmarks, folder)
        return {"tables": [asdict(tables_of(benchmark)) for benchmark in benchmarks]}

    depends = {
        "models": {label: identity for label, _, identity in models},
        "suites": [load_suite(name).model_dump() for name in job.suites],
        "tasks": job.tasks,
        "settings": {key: str(value) for key, value in asdict(job.settings).items()},
        "roles": [job.base, job.parents],
        "data": _content(job.settings.data, stages),
    }
    outputs = [folder / "benchmark.md", folder / "benchmark.csv"]
    record = stages.run("benchmarks", depends, outputs, work).result["tables"]
    return [BenchmarkTables.from_json(tables) for tables in record]


def _content(folder: Path | None, stages: Stages) -> dict[str, str]:
    if folder is None:
        return {}
    return {str(path): stages.files.of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
