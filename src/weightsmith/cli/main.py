"""The command line: `weightsmith COMMAND`. Commands import what they need when they run, so that --help is fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightsmith.errors import WeightsmithError

if TYPE_CHECKING:
    from weightsmith.pipeline.run import RunSummary
    from weightsmith.recipe.plan import Plan

app = typer.Typer(
    name="weightsmith", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__,
    rich_markup_mode=None,
)  # fmt: skip

Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Worker threads; as many as cores if not given.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
AcceptMapping = Annotated[
    bool, typer.Option("--accept-mapping", help="Map names of no known layout by the values of the weights.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary; errors only.")]


class OnNan(StrEnum):
    """What becomes of NaN and infinities in the inputs."""

    error = "error"
    warn = "warn"


def _version(wanted: bool) -> None:
    if wanted:
        from weightsmith import __version__

        typer.echo(f"weightsmith {__version__}")
        raise typer.Exit


@contextmanager
def _going_on(command: str = "the same command") -> Iterator[None]:
    """Ctrl-C in something that `command` continues."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"weightsmith: what was finished is kept; {command} goes on from there", err=True)
        raise


@app.callback(help="Merge language models: one recipe in, a merged, converted and evaluated model out.")
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="A merge recipe in mergekit's YAML format.")],
    out: Annotated[Path, typer.Argument(help="The folder to create.")],
    out_shard_size: Annotated[str, typer.Option(help="Largest shard, such as 5GB or 500MB (decimal units).")] = "5GB",
    threads: Threads = None,
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe, models and disk; say what a merge will take.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an interrupted run has done.")] = False,
    on_nan: Annotated[OnNan, typer.Option(help="NaN and infinities in the inputs: stop, or count them.")] = OnNan.error,
    device: Annotated[
        str,
        typer.Option(help="Where blocks are combined: cpu, or an accelerator that torch knows, such as cuda or mps."),
    ] = "cpu",
    ray: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster whose workers make the shards, --threads cores each: its address, auto, or local."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the methods that draw random numbers.")] = 0,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    mapping: Annotated[
        list[str], typer.Option("--mapping", help="MODEL=FILE: the names of a model in a layout of its own.")
    ] = [],  # noqa: B006
    accept_mapping: AcceptMapping = False,
    gguf: Annotated[
        list[str], typer.Option(help="Export to OUT/gguf as well: f16, q4_k_m, ...; may be given several times.")
    ] = [],  # noqa: B006
    no_intermediate: Annotated[
        bool, typer.Option("--no-intermediate", help="With --gguf: merge straight into GGUF files, keep nothing else.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Merge models as RECIPE says into the new folder OUT.

    A model is a local folder with safetensors, a GGUF file, or either followed by +ADAPTER (LoRA, peft format).

    Example: weightsmith merge ties.yml merged
    """
    from weightsmith.cli.progress import progress_bar
    from weightsmith.engine.merge import default_threads
    from weightsmith.engine.merge import merge as run
    from weightsmith.recipe import load_recipe, make_plan
    from weightsmith.sizes import parse_size, show_size, show_time

    shard = parse_size(out_shard_size)

    def converted(plan: Plan) -> None:
        for model in plan.models.values():
            if model.conversion and not quiet:
                typer.echo(f"{model.reference}: {model.conversion}", err=True)

    mappings = {}
    for entry in mapping:
        model, separator, file = entry.rpartition("=")
        if not separator:
            raise typer.BadParameter(f"{entry!r} is not MODEL=FILE", param_hint="--mapping")
        mappings[model] = Path(file)
    if gguf:
        from weightsmith.export.model_export import check_types

        check_types(gguf)
    if no_intermediate:
        if not gguf or dry_run or device != "cpu" or ray:
            raise typer.BadParameter(
                "needs --gguf, and goes with none of --dry-run, --device, --ray", param_hint="--no-intermediate"
            )
        from weightsmith.export.source import Order

        files = {model: str(file) for model, file in mappings.items()}
        tolerant = on_nan is OnNan.warn
        order = Order(recipe=str(recipe), seed=seed, tolerant=tolerant, mappings=files, accept_mapping=accept_mapping)
        return _export(order, out / "gguf", quiet, type=gguf, keep=False, name=out.name, threads=threads, force=force)
    if dry_run:
        from weightsmith.cli.plan import show_plan
        from weightsmith.engine.device import check_device
        from weightsmith.engine.estimate import estimate
        from weightsmith.engine.output_folder import check_output, check_space

        check_device(device)
        check_output(out, force=force)
        plan = make_plan(load_recipe(recipe), mappings=mappings, accept_mapping=accept_mapping)
        converted(plan)
        used = threads or default_threads()
        if not quiet:
            show_plan(plan)
        told = estimate(plan, out, threads=used, device=device)
        typer.echo(
            f"{plan.method.name}: {len(plan.models)} models, {len(plan.tensors)} tensors, reads "
            f"{show_size(plan.read_bytes)}, writes {show_size(plan.output_bytes)}\n"
            f"about {show_time(told.seconds)} on {used} threads, {'the disk' if told.disk_bound else 'reading and computing'} "
            f"being what takes longest; {show_size(told.memory_bytes)} of memory; {show_size(told.disk_bytes)} of disk, "
            f"{show_size(told.disk_free_bytes)} are free"
        )
        check_space(out, told.disk_bytes, told.disk_free_bytes)
        return

    with _going_on(), progress_bar("merging", quiet=quiet) as progress:
        done = run(
            recipe, out, threads=threads, out_shard_size=shard, force=force, progress=progress, on_plan=converted,
            mappings=mappings, accept_mapping=accept_mapping, restart=restart, on_nan=on_nan.value, seed=seed,
            device=device, ray=ray,
        )  # fmt: skip
    for found in done.not_finite:
        typer.echo(
            f"{found.model}: tensor {found.tensor!r}: {found.nan} NaN, {found.infinite} infinite elements", err=True
        )
    if not quiet:
        typer.echo(
            f"{done.out}: {done.method} of {done.models} models, {done.tensors} tensors, "
            f"{show_size(done.written_bytes)} in {done.seconds:.1f} s"
            + (f"; seed {done.seed}" if done.seed is not None else "")
            + (f"; {done.continued} tensors were done already" if done.continued else "")
            + (f"; {done.trim_ties} elements kept or dropped by ties at a threshold" if done.trim_ties else "")
        )
    if profile:
        used = threads or default_threads()
        busy = sum(done.phases.values())
        typer.echo("; ".join(f"{name} {seconds:.1f} s" for name, seconds in done.phases.items())
                   + f" on {used} threads together; {max(0.0, done.seconds * used - busy):.1f} s start-up and waiting")  # fmt: skip
    if gguf:
        again = f"weightsmith export {out} {out / 'gguf'} --name {out.name} " + " ".join(
            f"--type {kind}" for kind in gguf
        )
        _export(str(out), out / "gguf", quiet, again, type=gguf, name=out.name, threads=threads)


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(help="A folder that `weightsmith merge` or `unify` made.")],
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Read merged weights again and compare them with the checksums that were noted when they were written.

    Exit code 0: all as written. 2: damaged, and the tensors are named.

    Example: weightsmith verify merged
    """
    from weightsmith.cli.progress import progress_bar
    from weightsmith.engine.checksums import verify as run
    from weightsmith.engine.merge import default_threads
    from weightsmith.sizes import show_size

    with progress_bar("verifying", quiet=quiet) as progress:
        found = run(out, threads=threads or default_threads(), progress=progress)
    if not found.sound:
        parts = ((found.damaged, "damaged"), (found.missing, "missing"), (found.more, "not of the merge"))
        told = "; ".join(f"{len(names)} tensors {what}: {', '.join(names[:5])}" for names, what in parts if names)
        raise WeightsmithError(f"{out}: {told}. Merge again, or copy the folder again from where it is whole")
    if not quiet:
        typer.echo(f"{out}: {found.tensors} tensors, {show_size(found.bytes)}, all as written")


@app.command()
def inspect(
    models: Annotated[list[str] | None, typer.Argument(help="Models, the base first.", show_default=False)] = None,
    recipe: Annotated[Path | None, typer.Option(help="Take the models of this merge recipe.")] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Read all weights: how far each moved from the base, and the same way?")
    ] = False,
    save_mapping: Annotated[
        Path | None, typer.Option(help="Write the mapping that is proposed for names of no known layout.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All tensor names and tokens, not the first few.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Say what each model is and whether they can be merged, from their headers alone.

    A hub id (owner/name@revision) is inspected without downloading its weights. Exit code 0: they can be merged as they are.
    3: after the changes that are named. 2: a model is broken.

    Example: weightsmith inspect phi-2 phi-2-orange dolphin-2_6-phi-2
    """
    from dataclasses import asdict

    from weightsmith.cli.inspection import show_inspection
    from weightsmith.cli.progress import progress_bar
    from weightsmith.inspection.inspect import inspect as run

    beside, source, named = None, None, list(models or [])
    if recipe:
        from weightsmith.recipe import load_recipe
        from weightsmith.recipe.plan import references

        loaded = load_recipe(recipe)
        wish = loaded.recipe.tokenizer
        source = wish.source if wish else loaded.recipe.tokenizer_source
        beside, named = recipe.parent, [*references(loaded), *named]
    if not named:
        raise typer.BadParameter("give models, or --recipe")
    with progress_bar("reading", quiet=quiet or not stats) as progress:
        found = run(named, beside=beside, tokenizer_source=source, stats=stats, threads=threads, progress=progress)
    if json_:
        typer.echo(json.dumps(asdict(found) | {"mergeable": found.mergeable}, indent=2, ensure_ascii=False))
    elif not quiet:
        show_inspection(found, everything=everything)
    if save_mapping:
        if len(found.mappings) != 1:
            raise WeightsmithError(
                f"--save-mapping: {len(found.mappings)} models need a mapping; inspect the base and one that does"
            )
        save_mapping.write_text(next(iter(found.mappings.values())), encoding="utf-8")
    if not found.mergeable:
        raise typer.Exit(3)


@app.command()
def unify(
    model: Annotated[str, typer.Argument(help="A model: folder or GGUF file, +ADAPTER.")],
    out: Annotated[Path, typer.Argument(help="The folder to create.")],
    out_shard_size: Annotated[str, typer.Option(help="Largest shard, such as 5GB or 500MB (decimal units).")] = "5GB",
    to: Annotated[str | None, typer.Option("--to", help="Write an older layout instead, such as phi-msft.")] = None,
    like: Annotated[str | None, typer.Option(help="The base model, whose names MODEL is mapped to.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="A file that maps MODEL's names to those of --like.")] = None,
    accept_mapping: AcceptMapping = False,
    threads: Threads = None,
    force: Force = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an interrupted run has done.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write MODEL in the naming that transformers has today, every weight bit for bit.

    Old layouts are recognized by their tensors' names; no code from the model's folder is run.

    Example: weightsmith unify phi-2-orange phi-2-orange-unified
    """
    from weightsmith.cli.progress import progress_bar
    from weightsmith.engine.unify import unify as run
    from weightsmith.sizes import parse_size, show_size

    shard = parse_size(out_shard_size)
    with _going_on(), progress_bar("unifying", quiet=quiet) as progress:
        done = run(
            model, out, threads=threads, out_shard_size=shard, force=force, to=to, like=like, mapping=mapping,
            accept_mapping=accept_mapping, progress=progress, restart=restart,
        )  # fmt: skip
    if not quiet:
        typer.echo(
            f"{done.out}: {done.conversion or 'read under the names that transformers has today'}"
            + (f"; written as {to}" if to else "")
            + f"; {done.tensors} tensors, "
            f"{show_size(done.written_bytes)} in {done.seconds:.1f} s"
            + (f"; {done.continued} tensors were done already" if done.continued else "")
        )


@app.command()
def export(
    model: Annotated[
        str | None, typer.Argument(help="A model: folder, GGUF file or hub id, +ADAPTER.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(help="A folder, or for one type a file that ends in .gguf.", show_default=False),
    ] = None,
    type: Annotated[
        list[str] | None,
        typer.Option(
            "--type", "-t", help="f32, f16, bf16, q8_0, q4_k_m, ...; may be given several times. [default: f16]"
        ),
    ] = None,
    list_types: Annotated[
        bool, typer.Option("--list-types", help="All types, their sizes and what they are for.")
    ] = False,
    intermediate: Annotated[
        str,
        typer.Option(
            help="What quantized files are made from: f16, bf16, f32; auto: what the weights are, f16 for float32."
        ),
    ] = "auto",
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the file that quantized ones are made from.")
    ] = True,
    imatrix: Annotated[
        Path | None, typer.Option(help="An importance matrix, as llama.cpp makes them.", show_default=False)
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="A text that an importance matrix is computed from.", show_default=False)
    ] = None,
    check: Annotated[
        str,
        typer.Option(
            help="fast, full or none: are tokens those of the model's tokenizer, and next-token distributions its own?"
        ),
    ] = "fast",
    name: Annotated[str | None, typer.Option(help="The model's name; its folder's if not given.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model of an adapter that is exported alone.")] = None,
    llama_cpp: Annotated[
        Path | None,
        typer.Option(
            help="A llama.cpp checkout whose converter is used instead of the installed one.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Convert MODEL, in whatever naming, to GGUF, and quantize it.

    Into a folder go NAME-TYPE.gguf and manifest.json; what is there and still fits is not made again. A LoRA adapter alone becomes a
    file for llama-cli --lora.

    Example: weightsmith export merged gguf --type q4_k_m --type q8_0
    """
    from weightsmith.sizes import show_size

    if list_types:
        from weightsmith.cli.types import show_types
        from weightsmith.export.types import list_types as all_types

        show_types(all_types(model), model or "Llama 3 8B")
        return
    if model is None or out is None:
        raise typer.BadParameter("give a model and where to write it")
    from weightsmith.export.adapter_export import export_adapter, is_adapter

    if is_adapter(Path(model)):
        kinds = type or ["f16"]
        if len(kinds) > 1:
            raise typer.BadParameter("an adapter is one file, of one type", param_hint="--type")
        adapter = export_adapter(Path(model), out, base=base, type=kinds[0], name=name, force=force)
        if not quiet:
            typer.echo(f"{out}: {adapter.weights} weights adapted, rank {adapter.rank}, {show_size(adapter.bytes)}")
        return
    _export(
        model, out, quiet, type=type or ["f16"], intermediate=intermediate, keep=keep, importance=imatrix, calibrate=calibrate,
        check=check, name=name, llama_cpp=llama_cpp, threads=threads, force=force,
    )  # fmt: skip


def _export(model: Any, out: Path, quiet: bool, again: str = "the same command", **options: Any) -> None:
    from weightsmith.cli.progress import counter
    from weightsmith.cli.types import show_export
    from weightsmith.export.model_export import export as run

    with _going_on(again), counter("", quiet=quiet) as (say, progress):
        done = run(model, out, say=say, progress=progress, **options)
    if not quiet:
        show_export(done)


@app.command()
def clean(
    out: Annotated[Path, typer.Argument(help="A folder that `weightsmith export` wrote to.")],
    keep: Annotated[list[str], typer.Option(help="A type to keep, such as q4_k_m; may be given several times.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the files of an export but for those of the types named with --keep, after showing which and how large they are.

    Example: weightsmith clean gguf --keep q4_k_m
    """
    from weightsmith.export.clean import removable, remove
    from weightsmith.sizes import show_size

    found = removable(out, keep)
    for entry in found:
        typer.echo(f"{out / entry.file}: {show_size(entry.bytes)}")
    total = show_size(sum(entry.bytes for entry in found))
    if not found:
        typer.echo(f"{out}: nothing to remove")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise WeightsmithError(f"{total} in {len(found)} files would be removed; say so with --yes")
        typer.confirm(f"remove {total} in {len(found)} files?", abort=True)
    remove(out, found)
    typer.echo(f"{out}: {total} in {len(found)} files removed")


class PrecisionChoice(StrEnum):
    """What models are computed in. auto: bfloat16 where the processor multiplies it, else float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@app.command()
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models, each as MODEL or LABEL=MODEL; a merge recipe is merged in memory.", show_default=False
        ),
    ] = None,
    suite: Annotated[list[str], typer.Option(help="nous, openllm, openllm2, eq-bench or quick, or a YAML file.")] = [],  # noqa: B006
    tasks: Annotated[
        str | None, typer.Option(help="Tasks or groups of lm-evaluation-harness, with commas between.")
    ] = None,
    questions: Annotated[list[Path], typer.Option("--questions", help="JSONL with `prompt` and `target`.")] = [],  # noqa: B006
    text: Annotated[list[Path], typer.Option("--text", help="UTF-8 text for perplexity.")] = [],  # noqa: B006
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A folder for suites and tasks, a JSON file for questions and texts.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions of each task.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time for all models, such as 20m or 2h: as many questions as fit, the same share of each task."
        ),
    ] = None,
    fewshot: Annotated[int | None, typer.Option(min=0, help="Examples before each question, for all tasks.")] = None,
    data: Annotated[Path | None, typer.Option(help="A folder with the tasks' data; the hub is not asked.")] = None,
    include: Annotated[list[Path], typer.Option(help="A folder with task files of your own.")] = [],  # noqa: B006
    base: Annotated[str | None, typer.Option(help="The label of the base model; the first if not given.")] = None,
    parent: Annotated[
        list[str], typer.Option(help="The label of a parent; those between the first and the last model if not given.")
    ] = [],  # noqa: B006
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the models' chat templates.")] = False,
    system: Annotated[str | None, typer.Option(help="A system text before each question.")] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="What safetensors models are computed in.")
    ] = PrecisionChoice.auto,
    memory: Annotated[
        str | None, typer.Option(help="Weights, keys, values and activations together, such as 8GB.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Score models side by side: on benchmark suites, on questions with one answer, and on text.

    GGUF files run in llama.cpp, all else in transformers. Answers are kept in the output folder: the same command goes on after an
    interruption, and what is added later costs only itself.

    Example: weightsmith evaluate base=phi-2 code=phi-2-coder merged=out --suite nous -o benchmarks
    """
    from weightsmith.evaluate.suite import suite_names

    if not models:
        raise typer.BadParameter(f"give at least one model; suites: {', '.join(suite_names())}")
    named = _labelled(models)
    if (suite or tasks) and (questions or text):
        raise typer.BadParameter(
            "--suite and --tasks go into a folder, --questions and --text into a file: run them one by one"
        )
    if not (suite or tasks):
        return _evaluate_questions(named, questions, text, output or Path("evaluation.json"), threads, quiet)
    from weightsmith.cli.progress import counter
    from weightsmith.evaluate.benchmark import run_benchmarks
    from weightsmith.evaluate.benchmark_settings import BenchmarkSettings
    from weightsmith.report.benchmark_files import write_benchmarks
    from weightsmith.report.benchmark_tables import differences, note, side_by_side
    from weightsmith.sizes import parse_size, parse_time

    settings = BenchmarkSettings(
        limit=limit, budget=parse_time(budget, "--budget") if budget else None, fewshot=fewshot, data=data, include=tuple(include),
        chat=chat, system=system, precision=precision.value, memory=parse_size(memory, "--memory") if memory else None,
        threads=threads,
    )  # fmt: skip
    out = output or Path("benchmarks")
    with _going_on(), counter("requests", quiet=quiet) as (say, progress):
        found = run_benchmarks(
            named, out, suites=suite, tasks=tasks.split(",") if tasks else (), base=base, parents=parent or None,
            settings=settings, say=say, progress=progress,
        )  # fmt: skip
        write_benchmarks(found, out)
    for benchmark in found:
        typer.echo(f"\n{benchmark.suite.name}: {note(benchmark)}\n\n{side_by_side(benchmark)}")
        if told := differences(benchmark):
            typer.echo(f"\n{told}")
    if not quiet:
        typer.echo(f"\n{out}: tables, JSON, CSV and model cards; benchmark.md is the one to read", err=True)


def _labelled(models: list[str]) -> dict[str, str]:
    from weightsmith.evaluate.score_models import label_of

    found: dict[str, str] = {}
    for model in models:
        label, equals, reference = model.partition("=")
        if not equals or Path(model).exists():
            label, reference = label_of(model), model
        if label in found:
            raise typer.BadParameter(f"two models are called {label!r}: give each a name of its own as LABEL=MODEL")
        found[label] = reference
    return found


def _evaluate_questions(
    models: dict[str, str], questions: list[Path], texts: list[Path], output: Path, threads: int | None, quiet: bool
) -> None:
    from weightsmith.evaluate.score_models import evaluate as run
    from weightsmith.report.score_table import score_table

    def say(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    result = run(models, questions=questions, texts=texts, threads=threads, say=say)
    output.write_text(json.dumps(result.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(score_table(result))


@app.command()
def search(
    search_file: Annotated[Path, typer.Argument(help="A recipe with spaces in it, objectives and a sampler (YAML).")],
    out: Annotated[Path, typer.Argument(help="The folder for the study, the best recipe and the report.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search that is in OUT.")] = False,
    trials: Annotated[
        int | None, typer.Option(min=1, help="So many candidates, instead of the file's `trials`.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Candidates that are tried at once, each in a process.")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="A Ray cluster that tries the candidates: its address, auto, or local.")
    ] = None,
    threads: Threads = None,
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: what this processor is fast in.")
    ] = "auto",
    export_top: Annotated[int, typer.Option(min=0, help="Merge the best so many candidates into OUT/top-1, ...")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Discard a search that is in OUT.")] = False,
    quiet: Quiet = False,
) -> None:
    """Find the best values for the spaces in a recipe: candidates are merged in memory, scored, and compared.

    Example: weightsmith search search.yml found
    """
    from weightsmith.cli.progress import counter
    from weightsmith.cli.search import show_search
    from weightsmith.engine.merge import merge as run_merge
    from weightsmith.search.results import write_top
    from weightsmith.search.search import search as run

    if precision not in ("auto", "float32", "bfloat16"):
        raise typer.BadParameter("one of auto, float32, bfloat16", param_hint="--precision")
    with _going_on("the same command with --resume"), counter("candidates", quiet=quiet) as (say, step):
        found = run(
            search_file, out, workers=workers, ray=ray, threads=threads, precision=precision, trials=trials, resume=resume, force=force,
            say=say, progress=step,
        )  # fmt: skip
    for number, recipe in enumerate(write_top(out, search_file, found.trials, export_top), start=1):
        run_merge(recipe, out / f"top-{number}", threads=threads, force=True)
    if not quiet:
        show_search(found, export_top)


@app.command()
def ablate(
    recipe: Annotated[Path, typer.Argument(help="A merge recipe whose models have weights.")],
    out: Annotated[Path, typer.Argument(help="The folder for the heat map and the table.")],
    questions: Annotated[list[str], typer.Option("--questions", help="JSONL with `prompt` and `target`.")] = [],  # noqa: B006
    text: Annotated[list[str], typer.Option("--text", help="UTF-8 text for perplexity.")] = [],  # noqa: B006
    metric: Annotated[
        str | None,
        typer.Option(
            help="Of --questions: exact_match, or perplexity of the right answers, which tells more with few."
        ),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of lm-evaluation-harness, with commas between.")] = None,
    data: Annotated[Path | None, typer.Option(help="A folder with the tasks' data, instead of the hub.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="So many questions of each task or file.")] = None,
    blocks: Annotated[int, typer.Option(min=1, help="Into how many blocks the layers are divided.")] = 6,
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Which layers of which model carry which skill: each model is left out of each block of layers, and the loss is measured.

    Example: weightsmith ablate best.yml ablation --questions dates.jsonl --text novel.txt
    """
    from weightsmith.cli.progress import counter
    from weightsmith.search.ablate import ablate as run

    with _going_on(), counter("ablations", quiet=quiet) as (say, step):
        found = run(
            recipe, out, questions=questions, texts=text, metric=metric, tasks=tasks.split(",") if tasks else (), data=data, limit=limit,
            blocks=blocks, threads=threads, force=force, say=say, progress=step,
        )  # fmt: skip
    if not quiet:
        typer.echo(", ".join(str(path) for path in found.files))


@app.command()
def run(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline file: merge, export, evaluate, report.")],
    out: Annotated[Path, typer.Argument(help="The folder for everything the run makes.")],
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Merge, export, evaluate and report from one file; what has not changed since the last run is reused.

    Example: weightsmith run pipeline.yml out
    """
    from weightsmith.pipeline.run import run as run_pipeline

    _staged(run_pipeline, pipeline, out, threads=threads, force=force, quiet=quiet)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="The folder for everything the demo makes.")] = Path("demo"),
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Three small skills merged into a real 135 M model, exported, evaluated and reported: minutes, offline.

    Afterwards edit OUT/pipeline.yml and try your own recipe: weightsmith run OUT/pipeline.yml OUT
    """
    from weightsmith.demo.demo_run import run_demo

    _staged(run_demo, out, threads=threads, force=force, quiet=quiet)


def _staged(work: Callable[..., RunSummary], *arguments: Path, quiet: bool, **options: Any) -> None:
    from weightsmith.cli.progress import progress_bar
    from weightsmith.report.score_table import score_table

    def say(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    with progress_bar("merging", quiet=quiet) as progress:
        done = work(*arguments, say=say, progress=progress, **options)
    if done.evaluation:
        typer.echo(score_table(done.evaluation))
    if not quiet:
        fresh = [stage for stage in done.stages if not stage.reused]
        typer.echo(
            f"{done.out}: {len(fresh)} of {len(done.stages)} stages done in {sum(s.seconds for s in fresh):.0f} s, "
            "the others reused" + (f"; report: {done.report}" if done.report else "")
        )


def main() -> None:
    """Exit 0 done, 2 bad input or usage, 130 interrupted, 1 our bug."""
    try:
        app()
    except WeightsmithError as error:
        typer.echo(f"weightsmith: {error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # typer's own answer to Ctrl-C
            typer.echo("weightsmith: interrupted", err=True)
        raise


if __name__ == "__main__":
    main()
