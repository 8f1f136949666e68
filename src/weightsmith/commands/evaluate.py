"""`weightsmith evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightsmith.commands.terminal.json_output import AsJson, as_json, echo_json
from weightsmith.commands.terminal.options import (
    Data,
    Precision,
    Questions,
    Quiet,
    Texts,
    Threads,
    resumable,
    split_commas,
)

if TYPE_CHECKING:
    from weightsmith.evaluation.results.evaluation import Evaluation
    from weightsmith.evaluation.results.paired_tests import Comparison


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models, each as MODEL or LABEL=MODEL; a merge recipe is merged in memory.", show_default=False
        ),
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suites",
            "--suite",
            help="A suite such as nous or quick, or a YAML file; repeatable. Without a model, all are listed.",
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks or groups of lm-evaluation-harness, separated by commas.")
    ] = None,
    questions: Questions = None,
    texts: Texts = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for tables, samples and answers.")] = Path(
        "evaluation"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N questions of each task.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time for all models, such as 20m or 2h: as many questions as fit, equally from each task."),
    ] = None,
    fewshot: Annotated[int | None, typer.Option(min=0, help="Few-shot examples per question, for all tasks.")] = None,
    data: Data = None,
    include: Annotated[list[Path] | None, typer.Option(help="A folder with your own task files; repeatable.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model's label. [default: the first model's]")] = None,
    parents: Annotated[
        list[str] | None,
        typer.Option(
            "--parents",
            "--parent",
            help="A parent's label; repeatable. [default: the models between the first and the last]",
        ),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the models' chat templates.")] = False,
    system: Annotated[str | None, typer.Option(help="A system prompt for each question.")] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Compute precision of safetensors models. auto: float32 for questions and texts; for suites and tasks "
            "alone bfloat16, where the processor multiplies it."
        ),
    ] = Precision.auto,
    memory: Annotated[
        str | None,
        typer.Option(help="Limit for weights, keys, values and activations together, such as 8GB; on each GPU."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where models compute: cpu, an accelerator that torch knows, such as cuda (all GPUs, which share the "
            "questions), cuda:0,cuda:1 or mps, or auto."
        ),
    ] = "cpu",
    threads: Threads = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score models side by side on benchmark suites, questions with one answer, and texts, and compare them in pairs.

    GGUF files run in llama.cpp, everything else in transformers. Answers are kept in the output folder: the same
    command resumes an interrupted run, and what you add later costs only itself.

    Example: weightsmith evaluate base=phi-2 code=phi-2-coder merged=out --suite nous -o scores
    """
    from weightsmith.evaluation.tasks.suite import suite_names

    if not models:
        raise typer.BadParameter(f"give at least one model; suites: {', '.join(suite_names())}")
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.evaluation.evaluate import evaluate as evaluate_models
    from weightsmith.report.evaluation_files import write_evaluation

    labelled = _labelled(models)
    with resumable(), show_progress(quiet=quiet) as (log, on_progress):
        evaluation = evaluate_models(
            labelled,
            output,
            suites=suites or (),
            tasks=split_commas(tasks),
            questions=questions or (),
            texts=texts or (),
            base=base,
            parents=parents or None,
            limit=limit,
            budget=budget,
            fewshot=fewshot,
            data=data,
            include=include or (),
            chat=chat,
            system=system,
            precision=precision.value,
            memory=memory,
            device=device,
            threads=threads,
            log=log,
            on_progress=on_progress,
        )
        write_evaluation(evaluation, output)
        page = _report(evaluation, output)
    if json_:
        echo_json({"scores": evaluation.scores, "comparisons": [_compared(one) for one in evaluation.comparisons]})
    else:
        typer.echo(evaluation.to_markdown())
    if not quiet:
        typer.echo(f"{output}: tables, JSON, CSV and model cards; {page}", err=True)


def _report(evaluation: Evaluation, output: Path) -> str:
    """What to begin with: the page, where its extra is installed."""
    from weightsmith.errors import ReportError
    from weightsmith.report.evaluation_report import PAGE, write_evaluation_report

    try:
        write_evaluation_report(evaluation, output)
    except ReportError as error:
        (output / PAGE).unlink(missing_ok=True)  # an earlier one has other scores
        return f"begin with evaluation.md (no {PAGE}: {error})"
    return f"begin with {PAGE} or evaluation.md"


def _compared(comparison: Comparison) -> dict[str, Any]:
    return as_json(comparison) | {"verdict": comparison.verdict}


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
