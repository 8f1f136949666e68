"""`weightsmith merge`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightsmith.commands.terminal.json_output import AsJson, echo_json
from weightsmith.commands.terminal.merge_arguments import MergeCommand, recipe_of_options
from weightsmith.commands.terminal.options import AcceptMapping, Force, OutShardSize, Quiet, Restart, Threads, resumable

if TYPE_CHECKING:
    from weightsmith.engine.estimate import Estimate
    from weightsmith.engine.merge import MergeSummary
    from weightsmith.planning.plan import Plan, TensorPlan
    from weightsmith.recipe.recipe import Recipe

CLASS = MergeCommand


class OnNan(StrEnum):
    """What happens when an input holds NaN or infinity."""

    error = "error"
    warn = "warn"


def merge(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE OUT",
            help="A merge recipe in mergekit's YAML format, and the folder to create; or, with --method, the models.",
            show_default=False,
        ),
    ],
    method: Annotated[
        str | None, typer.Option(help="Merge with this method instead of a recipe; its parameters are options too.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="With --method: the base model.")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", help="With --method: NAME=VALUE, as --NAME VALUE; repeatable.", hidden=True),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="With --method: float32, float16 or bfloat16.")] = None,
    output: Annotated[Path | None, typer.Option("--out", "-o", help="The folder to create, instead of OUT.")] = None,
    out_shard_size: OutShardSize = "5GB",
    threads: Threads = None,
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe, models and disk; estimate time and memory.")
    ] = False,
    restart: Restart = False,
    json_: AsJson = False,
    on_nan: Annotated[
        OnNan, typer.Option(help="NaN and infinity in the inputs: stop (error), or count them (warn).")
    ] = OnNan.error,
    device: Annotated[
        str,
        typer.Option(
            help="Where blocks are combined: cpu, a device that torch knows, such as cuda (all GPUs), cuda:0,cuda:1 or "
            "mps, or auto."
        ),
    ] = "cpu",
    memory: Annotated[
        str | None, typer.Option(help="With --device: limit of what is taken of its memory, such as 4GB.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="A Ray cluster that makes the shards, --threads cores each: its address, auto, or local."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time went.")] = False,
    mappings: Annotated[
        list[str] | None,
        typer.Option("--mappings", "--mapping", help="MODEL=FILE: maps a model's unknown tensor names; repeatable."),
    ] = None,
    accept_mapping: AcceptMapping = False,
    allow_different_settings: Annotated[
        bool,
        typer.Option(
            "--allow-different-settings",
            "--allow-crimes",
            help="Merge models whose config.json makes them different functions (heads, activation, ...).",
        ),
    ] = False,
    keep_stages: Annotated[
        bool,
        typer.Option(
            "--keep-stages", help="Of a recipe with several documents: keep each one's result, in OUT-stages/NAME."
        ),
    ] = False,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write a LoRA adapter of this rank on the base model, in peft's format, instead of full weights.",
        ),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card/--no-card", help="Write a model card; the files of local inputs are hashed for it.")
    ] = True,
    gguf: Annotated[
        list[str] | None, typer.Option(help="Also export to OUT/gguf: f16, q4_k_m, ...; repeatable.")
    ] = None,
    no_intermediate: Annotated[
        bool, typer.Option("--no-intermediate", help="With --gguf: merge straight into GGUF files, keep nothing else.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Merge models as RECIPE says into the new folder OUT.

    A model is a local folder with safetensors, a GGUF file, or either followed by +ADAPTER (LoRA, peft format). Without
    a recipe: --method ties --base BASE --density 0.5 MODEL MODEL -o OUT. The flags of mergekit-yaml are taken too.

    Example: weightsmith merge ties.yml merged
    """
    from weightsmith.machine import available_cores, has_gpu, usable_devices
    from weightsmith.units import parse_shard_size, parse_size

    chosen = device != "cpu"
    device = usable_devices(device)
    if memory and device == "cpu":
        raise typer.BadParameter(
            "is a limit for an accelerator, and goes with --device; memory on the processor grows with --threads",
            param_hint="--memory",
        )
    memory_bytes = parse_size(memory, "--memory") if memory else None
    recipe, out = _recipe_and_out(arguments, output, method, base, parameters or [], dtype)
    if method and not (quiet or json_):
        typer.echo(str(recipe))
    shard_bytes = parse_shard_size(out_shard_size)
    mapping_files = _parse_mappings(mappings or [])
    if lora_rank and (gguf or ray or device != "cpu" or on_nan is OnNan.warn):
        raise typer.BadParameter(
            "goes with none of --gguf, --device, --ray, --on-nan warn; `weightsmith export` makes a GGUF of an adapter",
            param_hint="--lora-rank",
        )
    if gguf:
        from weightsmith.gguf.export import check_types

        if json_ and not no_intermediate:
            raise typer.BadParameter("goes with --gguf where that is all: add --no-intermediate", param_hint="--json")
        check_types(gguf)
    if no_intermediate and (not gguf or dry_run or device != "cpu" or ray or method):
        raise typer.BadParameter(
            "needs --gguf, and goes with none of --dry-run, --device, --ray, --method",
            param_hint="--no-intermediate",
        )
    if device == "cpu":
        _begin_compiling(recipe, threads or available_cores())
    from weightsmith.commands.export import export_and_show
    from weightsmith.commands.terminal.show_progress import show_progress
    from weightsmith.engine.merge import merge as merge_models

    if no_intermediate:
        from weightsmith.gguf.conversion.export_source import ExportJob

        job = ExportJob(
            recipe=str(recipe),
            seed=seed,
            tolerant=on_nan is OnNan.warn,
            mappings={model: str(file) for model, file in mapping_files.items()},
            accept_mapping=accept_mapping,
            allow_different_settings=allow_different_settings,
        )
        export_and_show(
            job, out / "gguf", quiet, types=gguf, keep=False, name=out.name, threads=threads, force=force, json_=json_
        )
        return

    rest = ""

    def show_notes(plan: Plan) -> None:
        nonlocal rest
        rest = _about_the_rest(plan) if plan.method.of_matrices else ""
        if plan.method.of_matrices and not (chosen or quiet) and has_gpu():
            typer.echo(
                "there is a GPU: --device cuda computes whole matrices on it; numbers may differ in the last bit",
                err=True,
            )
        for model in plan.models.values():
            if model.conversion and not quiet:
                typer.echo(f"{model.reference}: {model.conversion}", err=True)
        for warning in plan.warnings:
            typer.echo(f"warning: {warning}", err=True)

    if dry_run:
        from weightsmith.engine.stages.plan_stages import open_plan
        from weightsmith.engine.workers.device_streams import Devices
        from weightsmith.files.output_folder import check_output
        from weightsmith.recipe.recipe import load_recipe

        check_output(out, force=force, inputs=None)
        plan = open_plan(
            load_recipe(recipe),
            mappings=mapping_files,
            accept_mapping=accept_mapping,
            allow_different_settings=allow_different_settings,
            to_be_run=False,
            state_dicts=True,
        )
        show_notes(plan)
        Devices(device).pace(threads or available_cores(), plan.tensors, plan.method, memory_bytes)
        adapter_bytes = None
        if lora_rank:
            from weightsmith.engine.adapter.plan_adapter import plan_adapter

            adapter_bytes = sum(tensor.info.nbytes for tensor in plan_adapter(plan, lora_rank).pairs)
        _show_dry_run(plan, out, threads or available_cores(), device, quiet, json_, adapter_bytes)
        return

    with resumable(), show_progress(quiet=quiet) as (_, on_progress):
        summary = merge_models(
            recipe,
            out,
            threads=threads,
            out_shard_size=shard_bytes,
            force=force,
            restart=restart,
            on_nan=on_nan.value,
            seed=seed,
            device=device,
            memory=memory_bytes,
            ray=ray,
            mappings=mapping_files,
            accept_mapping=accept_mapping,
            allow_different_settings=allow_different_settings,
            keep_stages=keep_stages,
            lora_rank=lora_rank,
            card=card,
            on_progress=on_progress,
            on_plan=show_notes,
        )
    if json_:
        echo_json(summary)
    else:
        _show_summary(summary, quiet, show_device=chosen)
        if rest and not quiet:
            typer.echo(rest)
        if profile:
            _show_profile(summary, threads or available_cores())
    if gguf:
        types = " ".join(f"--type {gguf_type}" for gguf_type in gguf)
        again = f"weightsmith export {out} {out / 'gguf'} --name {out.name} {types}"
        export_and_show(str(out), out / "gguf", quiet, again, types=gguf, name=out.name, threads=threads)


def _recipe_and_out(
    arguments: list[str],
    output: Path | None,
    method: str | None,
    base: str | None,
    parameters: list[str],
    dtype: str | None,
) -> tuple[Recipe | Path, Path]:
    """What is to be merged, and where it goes. Raises RecipeError."""
    if method is None:
        for option, value in (("--base", base), ("--dtype", dtype), ("--parameter", parameters)):
            if value:
                raise typer.BadParameter("goes with --method only; a recipe says it itself", param_hint=option)
        places = [Path(argument) for argument in arguments] + ([output] if output else [])
        if len(places) != 2:
            raise typer.BadParameter(f"expected RECIPE and OUT, found {len(places)} paths", param_hint="RECIPE OUT")
        return places[0], places[1]
    from weightsmith.recipe.recipe import load_recipe

    if output is None:
        raise typer.BadParameter("is missing: the folder to create", param_hint="--out / -o")
    return load_recipe(recipe_of_options(method, arguments, base, parameters, dtype)), output


def _begin_compiling(recipe: Recipe | Path, cores: int) -> None:
    """What a first merge compiles, in another process, while this one imports the rest and plans. That process reads
    the recipe too; what is wrong with it is said by this one."""
    from weightsmith.blocks.convert import STORE_BESIDE

    def compile_ahead() -> None:
        from weightsmith.recipe.recipe import load_recipe

        load_recipe(recipe).method.compile_ahead()

    STORE_BESIDE.start(cores, compile_ahead)


def _parse_mappings(entries: list[str]) -> dict[str, Path]:
    mappings = {}
    for entry in entries:
        model, separator, file = entry.rpartition("=")
        if not separator:
            raise typer.BadParameter(f"{entry!r} is not MODEL=FILE", param_hint="--mapping")
        mappings[model] = Path(file)
    return mappings


def _show_dry_run(
    plan: Plan, out: Path, threads: int, device: str, quiet: bool, json_: bool, adapter_bytes: int | None = None
) -> None:
    """The plan, what the merge will take, and whether the disk has room for it; `adapter_bytes`: of a result that is an
    adapter. Raises OutputError."""
    from weightsmith.engine.estimate import estimate
    from weightsmith.files.output_folder import check_space

    if not (quiet or json_):
        show_plan(plan)
    cost, written = estimate(plan, out, threads=threads, device=device), plan.output_bytes
    if adapter_bytes is not None:
        cost, written = replace(cost, disk_bytes=adapter_bytes, beside_bytes=0, disk_bound=False), adapter_bytes
    if json_:
        planned = {"method": plan.method.name, "models": len(plan.models), "tensors": len(plan.tensors)}
        sizes = {"read_bytes": plan.read_bytes, "written_bytes": written}
        echo_json(planned | sizes | {"estimate": cost if adapter_bytes is None else None})
    else:
        if adapter_bytes is not None:
            typer.echo("as a LoRA adapter: its singular values take time that is not estimated")
        _show_cost(plan, cost, written, threads)
    check_space(out, cost.disk_bytes - cost.beside_bytes, cost.disk_free_bytes, beside=cost.beside_bytes)


def _show_cost(plan: Plan, cost: Estimate, written: int, threads: int) -> None:
    from weightsmith.units import show_size, show_time

    typer.echo(
        f"{plan.method.name}: {len(plan.models)} models, {len(plan.tensors)} tensors, reads "
        f"{show_size(plan.read_bytes)}, writes {show_size(written)}\n"
        f"about {show_time(cost.seconds)} on {threads} threads, limited by "
        f"{'the disk' if cost.disk_bound else 'reading and computing'}; {show_size(cost.memory_bytes)} of memory; "
        f"{show_size(cost.disk_bytes)} of disk, {show_size(cost.disk_free_bytes)} are free"
    )
    if plan.method.of_matrices:
        held = "matrices are held whole, one of each model for each thread"
        small = "adapters are merged from their own matrices"
        typer.echo(f"{held if cost.whole_matrices else small}; {_about_the_rest(plan)}")
    if plan.method.reads_text:
        typer.echo(_about_text(plan))


def _about_the_rest(plan: Plan) -> str:
    """What a method of matrices does with tensors that are none: `embeddings: mean, vectors: mean`, or its rule's
    name."""
    shared = [tensor.settings.shared for tensor in plan.tensors if not tensor.copy]
    rules = {
        key: sorted({values["rule"] if values[key] == "rule" else values[key] for values in shared})
        for key in ("embeddings", "vectors")
    }
    return ", ".join(f"{key}: {' or '.join(values)}" for key, values in rules.items())


def _about_text(plan: Plan) -> str:
    """How much text the models read before the merge, and the largest of them in memory."""
    from weightsmith.units import show_size

    shared = next(tensor.settings.shared for tensor in plan.tensors if not tensor.copy)
    largest = max(sum(info.numel * 4 for info in model.tensors.values()) for model in plan.models.values())
    tensors = [tensor for tensor in plan.tensors if not tensor.copy]
    if plan.method.reads_text == "fisher":
        kept = sum(tensor.info.numel * 4 for tensor in tensors)
    else:
        kept = sum(tensor.info.shape[-1] ** 2 * 4 for tensor in tensors if tensor.settings.role == "matrix")
    return (
        f"first each model reads up to {shared['samples']} x {shared['context']} tokens of its text, with "
        f"{show_size(largest)} of memory for its weights in float32; that time is not estimated. What is collected, at "
        f"most {show_size(kept)} of each model, is kept beside it"
    )


def show_plan(plan: Plan) -> None:
    """Print a table: tensors that differ in their layer number alone share a row."""
    from rich.table import Table

    from weightsmith.commands.terminal.tables import plain_console
    from weightsmith.models.parts.stacks import LAYER

    groups: dict[tuple[object, ...], list[TensorPlan]] = {}
    for tensor in plan.tensors:
        match = LAYER.match(tensor.name)
        name = f"{match[1]}*{match[3]}" if match else tensor.name
        dtypes = tuple(source.model.checkpoint.tensors[source.tensor].dtype for source in tensor.sources)
        groups.setdefault((name, tensor.info.shape, tensor.info.dtype, dtypes, tensor.copy), []).append(tensor)
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for title in ("tensors", "", "shape", "dtype", "from", "parameters"):
        table.add_column(title, justify="right" if not title else "left", no_wrap=True)
    for (name, _, dtype, dtypes, copy), tensors in groups.items():
        assert isinstance(dtypes, tuple)
        source_dtypes = dtypes[0] if len(set(dtypes)) == 1 else ", ".join(dtypes)
        parameters = "copied from the first" if copy else _parameters(tensors)
        shape = "x".join(map(str, tensors[0].info.shape)) or "1"
        table.add_row(str(name), f"{len(tensors)}", shape, str(dtype), source_dtypes, parameters)
    plain_console().print(table)


def _parameters(tensors: list[TensorPlan]) -> str:
    """Each parameter once: `weight 0.5, 0.3`, a value per model that has it, `0.2..0.9` where it changes over
    layers."""
    first = tensors[0].settings
    shown = []
    for name in dict.fromkeys(name for values in first.per_input for name in values):
        models = [
            i
            for i, values in enumerate(first.per_input)
            if name in values and any(t.settings.per_input[i][name] is not None for t in tensors)
        ]
        if models:
            shown.append(f"{name} " + ", ".join(_span(t.settings.per_input[i][name] for t in tensors) for i in models))
    for name in first.shared:
        values = [tensor.settings.shared[name] for tensor in tensors]
        if any(value is not None for value in values):
            shown.append(f"{name} {_span(values)}")
    return "; ".join(shown)


def _span(values: Iterable[Any]) -> str:
    every = list(values)
    if all(value == every[0] for value in every):
        return _show_value(every[0])
    if not all(isinstance(value, int | float) for value in every):  # some slices set it, others leave it out
        return " or ".join(dict.fromkeys(map(_show_value, every)))
    return f"{_show_value(min(every))}..{_show_value(max(every))}"


def _show_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, int | float) else value or "none"


def _show_summary(summary: MergeSummary, quiet: bool, *, show_device: bool) -> None:
    from weightsmith.units import show_size

    for count in summary.not_finite:
        typer.echo(
            f"{count.model}: tensor {count.tensor!r}: {count.nan} NaN, {count.infinite} infinite elements", err=True
        )
    if summary.license_warning:
        typer.echo(f"warning: {summary.license_warning}", err=True)
    if quiet:
        return
    if summary.done_already:
        typer.echo(f"{summary.out}: done already, nothing has changed since; --force does it again")
        return
    typer.echo(
        f"{summary.out}: {summary.method} of {summary.models} models, {summary.tensors} tensors, "
        f"{show_size(summary.written_bytes)} in {summary.seconds:.1f} s"
        + (f" on {summary.device}" if show_device else "")
        + (f"; lines_alpha {summary.lines_alpha:.4g}" if summary.lines_alpha is not None else "")
        + (f"; seed {summary.seed}" if summary.seed is not None else "")
        + (f"; {summary.resumed} tensors were finished before" if summary.resumed else "")
        + (f"; {summary.trim_ties} elements kept or dropped by ties at a threshold" if summary.trim_ties else "")
    )
    if summary.lora_loss is not None:
        name, share = summary.lora_loss.worst
        typer.echo(
            f"the rank leaves out {summary.lora_loss.share:.2%} of the change's length; most of {name}: {share:.2%}"
        )


def _show_profile(summary: MergeSummary, threads: int) -> None:
    busy = sum(summary.phases.values())
    phases = "; ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.phases.items())
    waiting = max(0.0, summary.seconds * threads - busy)
    typer.echo(f"{phases} on {threads} threads together; {waiting:.1f} s start-up and waiting")
