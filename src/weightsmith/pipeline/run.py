"""`weightsmith run`: merge, export, evaluate and report from one file, reusing what has not changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weightsmith.architecture import Model, open_model
from weightsmith.engine.merge import merge
from weightsmith.engine.output_folder import check_output
from weightsmith.engine.run_plan import Progress
from weightsmith.errors import CheckpointError, OutputError
from weightsmith.evaluate.score_models import Evaluation, ModelScores, evaluate
from weightsmith.evaluate.tasks import load_questions, load_text
from weightsmith.export.conversion import PLAIN_TYPES
from weightsmith.export.fidelity import in_words
from weightsmith.export.model_export import export
from weightsmith.llama_cpp import quantization_types
from weightsmith.pipeline.benchmark_stage import BenchmarkOrder, check_benchmarks, run_benchmark_stage
from weightsmith.pipeline.schema import MERGED, Pipeline
from weightsmith.pipeline.stages import RECORDS, Stage, Stages
from weightsmith.recipe.load import LoadedRecipe, load_recipe
from weightsmith.recipe.plan import Plan, make_plan
from weightsmith.recipe.yaml_file import YamlFile, nearest, read_yaml
from weightsmith.report.benchmark_tables import BenchmarkTables
from weightsmith.report.facts import ReportFacts
from weightsmith.report.write_report import write_report

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunSummary:
    """`evaluation` and `report` (the HTML page) are None where the pipeline has no such stage."""

    out: Path
    stages: tuple[Stage, ...]
    evaluation: Evaluation | None
    report: Path | None


@dataclass(frozen=True)
class _Checked:
    """A pipeline of which every part was opened once, before any work."""

    file: YamlFile
    pipeline: Pipeline
    recipe: LoadedRecipe
    plan: Plan
    scored: dict[str, str]
    questions: tuple[Path, ...]
    texts: tuple[Path, ...]
    benchmarks: BenchmarkOrder | None


def run(
    pipeline: Path | str,
    out: Path | str,
    *,
    threads: int | None = None,
    force: bool = False,
    say: Say = lambda text: None,
    progress: Progress | None = None,
) -> RunSummary:
    """Run a pipeline file into the folder `out`: merged/, gguf/, evaluation/, evaluation.json, benchmarks/, report.md, report.html.

    A stage whose recipe, models, data and settings are what they were is not done again; `force` takes a folder that
    holds something else than an earlier run. Paths in the file are relative to the working directory or to the file.
    Raises WeightsmithError, and keeps the stages that were finished.
    """
    checked = _check(Path(pipeline))
    out = Path(out).absolute()
    if not (out / RECORDS).is_dir():
        inputs = tuple(path for model in checked.plan.models.values() for path in model.files)
        check_output(out, force=force, inputs=inputs)
    try:
        stages = Stages(out, say)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    merged = _merge(checked, out, stages, threads, progress)
    exports = _export(checked, out, stages, merged, threads, say)
    models = _scored_models(checked, out, stages, merged, exports)
    scores = _evaluate(checked, models, out, stages, threads, say)
    benchmarks: list[BenchmarkTables] = []
    if checked.benchmarks:
        benchmarks = run_benchmark_stage(checked.benchmarks, models, out, stages, threads, say)
    page = _report(checked, out, stages, scores, benchmarks)
    return RunSummary(out, tuple(stages.done), scores, page)


def _check(path: Path) -> _Checked:
    file = read_yaml(path)
    pipeline = file.validate(Pipeline)
    if isinstance(pipeline.merge, str):
        recipe = load_recipe(_existing(file, ["merge"], pipeline.merge))
    else:
        recipe = load_recipe(file.part("merge"))
    known = [*PLAIN_TYPES, *quantization_types()] if pipeline.export else []
    for i, kind in enumerate(pipeline.export):
        if kind not in known:
            raise file.error(["export", i], f"unknown GGUF type {kind!r}{nearest(kind, known)}")
    plan = make_plan(recipe)
    stage, scored, questions, texts = pipeline.evaluate, {}, [], []
    if stage:
        if not (stage.questions or stage.texts or stage.suites or stage.tasks):
            raise file.error(
                ["evaluate"], "evaluate: nothing to evaluate; give `questions`, `texts`, `suites` or `tasks`"
            )
        questions = [_existing(file, ["evaluate", "questions", i], q) for i, q in enumerate(stage.questions)]
        texts = [_existing(file, ["evaluate", "texts", i], t) for i, t in enumerate(stage.texts)]
        for questions_file in questions:
            load_questions(questions_file)
        for text_file in texts:
            load_text(text_file)
        scored = stage.models or {"merged": MERGED} | {f"merged {k}": f"${k}" for k in pipeline.export}
        for label, reference in scored.items():
            if reference.startswith("$"):
                made = [MERGED, *(f"${kind}" for kind in pipeline.export)]
                if reference not in made:
                    raise file.error(
                        ["evaluate", "models", label], f"{reference!r} is not made here; known: {', '.join(made)}"
                    )
            else:
                try:
                    open_model(reference, beside=file.path.parent)
                except CheckpointError as error:
                    raise CheckpointError(f"{file.path}:{file.line(['evaluate', 'models', label])}: {error}") from error
    benchmarks = check_benchmarks(file, stage, scored) if stage else None
    return _Checked(file, pipeline, recipe, plan, scored, tuple(questions), tuple(texts), benchmarks)


def _existing(file: YamlFile, keys: list[str | int], name: str) -> Path:
    here = Path(name).expanduser()
    for candidate in (here, file.path.parent / here):
        if candidate.is_file():
            return candidate
    raise file.error(keys, f"{name}: no such file")


def _identity(stages: Stages, model: Model) -> list[str]:
    return [stages.files.of(path) for path in model.files]


def _merge(checked: _Checked, out: Path, stages: Stages, threads: int | None, progress: Progress | None) -> Stage:
    folder = out / "merged"

    def work() -> dict:
        done = merge(checked.recipe.file, folder, threads=threads, force=True, progress=progress)
        return {k: v for k, v in asdict(done).items() if k != "out"}

    models = {name: _identity(stages, model) for name, model in checked.plan.models.items()}
    depends = {"recipe": checked.recipe.recipe.model_dump(), "models": models}
    return stages.run("merge", depends, [folder], work)


def _export(
    checked: _Checked, out: Path, stages: Stages, merged: Stage, threads: int | None, say: Say
) -> dict[str, tuple[Path, Stage]]:
    """Quantized types are made from one f16 file, which is a stage of its own whether or not it was asked for."""
    kinds = checked.pipeline.export
    made: dict[str, tuple[Path, Stage]] = {}
    first = ["f16"] if any(kind == "f16" or kind not in PLAIN_TYPES for kind in kinds) else []
    for kind in [*first, *(kind for kind in kinds if kind != "f16")]:
        path = out / "gguf" / f"merged-{kind}.gguf"

        def work(path: Path = path, kind: str = kind) -> dict:
            done = export(
                out / "merged", path.parent, type=kind, intermediate="f16", threads=threads, force=True, say=say
            )
            (file,) = done.files
            return {"bytes": file.bytes, "found": in_words(file.fidelity) if file.fidelity else ""}

        made[kind] = (path, stages.run(f"export {kind}", {"merge": merged.key, "type": kind}, [path], work))
    return made


def _scored_models(
    checked: _Checked, out: Path, stages: Stages, merged: Stage, exports: dict[str, tuple[Path, Stage]]
) -> list[tuple[str, str, Any]]:
    """Label, reference, and what the content is known by."""
    found: list[tuple[str, str, Any]] = []
    for label, reference in checked.scored.items():
        if reference == MERGED:
            found.append((label, str(out / "merged"), merged.key))
        elif reference.startswith("$"):
            path, stage = exports[reference[1:]]
            found.append((label, str(path), stage.key))
        else:
            opened = open_model(reference, beside=checked.file.path.parent)
            found.append((label, "+".join(map(str, opened.files)), _identity(stages, opened)))
    return found


def _evaluate(
    checked: _Checked, models: list[tuple[str, str, Any]], out: Path, stages: Stages, threads: int | None, say: Say
) -> Evaluation | None:
    if not (checked.questions or checked.texts):
        return None
    folder = out / "evaluation"
    folder.mkdir(exist_ok=True)
    data = {str(path.name): stages.files.of(path) for path in (*checked.questions, *checked.texts)}
    scored = []
    for number, (label, model, identity) in enumerate(models):
        path = folder / f"{number:02d}.json"

        def work(label: str = label, model: str = model, path: Path = path) -> dict:
            result = evaluate(
                {label: model}, questions=checked.questions, texts=checked.texts, threads=threads, say=say
            )
            content = asdict(result.models[0])
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            return content

        depends = {"model": identity, "data": data, "label": label}
        scored.append(ModelScores.from_json(stages.run(f"evaluate {label}", depends, [path], work).result))
    result = Evaluation(tuple(scored))
    text = json.dumps(result.as_json(), indent=2, ensure_ascii=False) + "\n"
    partial = out / ".evaluation.json.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(out / "evaluation.json")
    return result


def _report(
    checked: _Checked, out: Path, stages: Stages, scores: Evaluation | None, benchmarks: list[BenchmarkTables]
) -> Path | None:
    if checked.pipeline.report is None:
        return None
    done = list(stages.done)
    files = []
    for stage in done:
        kind = stage.name.partition(" ")[2]
        if stage.name == "merge":
            how = f"{stage.result['method']} of {stage.result['models']} models"
            how += f", seed {stage.result['seed']}" if stage.result.get("seed") is not None else ""
            files.append(("merged/", stage.result["written_bytes"], how))
        elif stage.name.startswith("export "):
            how = "llama.cpp's converter" if kind in PLAIN_TYPES else "llama.cpp's quantizer"
            how += f"; {stage.result['found']}" if stage.result["found"] else ""
            files.append((f"gguf/merged-{kind}.gguf", stage.result["bytes"], how))
    steps = tuple((stage.name, stage.seconds) for stage in done)
    facts = ReportFacts(
        checked.pipeline.report.title, checked.recipe.file.text, tuple(files), steps, scores, tuple(benchmarks)
    )
    depends = {"keys": [stage.key for stage in done], "title": facts.title, "recipe": facts.recipe, "steps": steps}
    outputs = [out / "report.md", out / "report.html"]
    stages.run("report", depends, outputs, lambda: {"written": [str(p.name) for p in write_report(facts, out)]})
    return outputs[1]
