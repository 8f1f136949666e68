"""`weightsmith evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from weightsmith.commands.terminal.options import (
    Data,
    Precision,
    Questions,
    Quiet,
    Text,
    Threads,
    resumable,
    split_commas,
)


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models, each as MODEL or LABEL=MODEL; a merge recipe is merged in memory.", show_default=False
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="A suite such as nous or quick, or a YAML file; repeatable. Without a model, all are listed."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks or groups of lm-evaluation-harness, separated by commas.")
    ] = None,
    questions: Questions = None,
    text: Text = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A folder for suites and tasks, a JSON file for questions and texts.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N questions of each task.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time for all models, such as 20m or 2h: as many questions as fit, equally from each task."),
    ] = None,
    fewshot: Annotated[int | None, typer.Option(min=0, help="Few-shot examples per question, for all tasks.")] = None,
    data: Data = None,
    include: Annotated[list[Path] | None, typer.Option(help="A folder with your own task files; repeatable.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model's label. [default: the first model's]")] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(help="A parent's label; repeatable. [default: the models between the first and the last]"),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the models' chat templates.")] = False,
    system: Annotated[str | None, typer.Option(help="A system prompt for each question.")] = None,
    precision: Annotated[Precision, typer.Option(help="Compute precision of safetensors models.")] = Precision.auto,
    memory: Annotated[
        str | None, typer.Option(help="Limit for weights, keys, values and activations together, such as 8GB.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Score models side by side: on benchmark suites, on questions with one answer, and on text.

    GGUF files run in llama.cpp, everything else in transformers. Answers are kept in the output folder: the same
    command resumes an interrupted run, and what you add later costs only itself.

    Example: weightsmith evaluate base=phi-2 code=phi-2-coder merged=out --suite nous -o benchmarks
    """
    from weightsmith.evaluation.tasks.suite import suite_names

    if not models:
        raise typer.BadParameter(f"give at least one model; suites: {', '.join(suite_names())}")
    labelled = _labelled(models)
    if (suite or tasks) and (questions or text):
        raise typer.BadParameter(
            "--suite and --tasks write a folder, --questions and --text a file: run them separately"
        )
    if not (suite or tasks):
        result_file = output or Path("evaluation.json")
        _evaluate_questions(labelled, questions or [], text or [], result_file, threads, quiet)
        return
    from weightsmith.commands.terminal.progress import counter
    from weightsmith.evaluation.run_benchmarks import run_benchmarks
    from weightsmith.evaluation.settings import BenchmarkSettings
    from weightsmith.report.benchmark_files import write_benchmarks
    from weightsmith.report.benchmark_tables import differences, note, side_by_side
    from weightsmith.units import parse_size, parse_time

    settings = BenchmarkSettings(
        limit=limit,
        budget=parse_time(budget, "--budget") if budget else None,
        fewshot=fewshot,
        data=data,
        include=tuple(include or ()),
        chat=chat,
        system=system,
        precision=precision.value,
        memory=parse_size(memory, "--memory") if memory else None,
        threads=threads,
    )
    out = output or Path("benchmarks")
    with resumable(), counter("requests", quiet=quiet) as (log, on_progress):
        benchmarks = run_benchmarks(
            labelled,
            out,
            suites=suite or (),
            tasks=split_commas(tasks),
            base=base,
            parents=parent or None,
            settings=settings,
            log=log,
            on_progress=on_progress,
        )
        write_benchmarks(benchmarks, out)
    for benchmark in benchmarks:
        typer.echo(f"\n{benchmark.suite.name}: {note(benchmark)}\n\n{side_by_side(benchmark)}")
        if table := differences(benchmark):
            typer.echo(f"\n{table}")
    if not quiet:
        typer.echo(f"\n{out}: tables, JSON, CSV and model cards; begin with benchmark.md", err=True)


def _labelled(models: list[str]) -> dict[str, str]:
    """Label -> reference."""
    from weightsmith.models.find_model import short_name

    labelled: dict[str, str] = {}
    for model in models:
        label, equals, reference = model.partition("=")
        if not equals or Path(model).exists():
            label, reference = short_name(model), model
        if label in labelled:
            raise typer.BadParameter(f"two models are called {label!r}: give each its own name as LABEL=MODEL")
        labelled[label] = reference
    return labelled


def _evaluate_questions(
    models: dict[str, str], questions: list[Path], texts: list[Path], output: Path, threads: int | None, quiet: bool
) -> None:
    from weightsmith.commands.terminal.progress import line_logger
    from weightsmith.evaluation.evaluate import evaluate as evaluate_models
    from weightsmith.report.score_table import score_table

    result = evaluate_models(models, questions=questions, texts=texts, threads=threads, log=line_logger(quiet=quiet))
    output.write_text(json.dumps(result.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(score_table(result))
