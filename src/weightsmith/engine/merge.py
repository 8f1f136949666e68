"""`weightsmith merge`: a recipe to a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.checkpoint.weights_folder import ADAPTER_WEIGHTS, SINGLE
from weightsmith.engine.adapter.make_adapter import AdapterLoss, make_adapter
from weightsmith.engine.adapter.plan_adapter import plan_adapter
from weightsmith.engine.distributed.on_ray import RayJob, run_on_ray
from weightsmith.engine.know_whole_model import know_whole_model, known_of
from weightsmith.engine.output.checksums import CHECKSUMS, is_written, write_checksums
from weightsmith.engine.output.input_stamps import InputStamps
from weightsmith.engine.output.journaled_run import run_journaled
from weightsmith.engine.output.merge_card import write_merge_card
from weightsmith.engine.output.resumable_folder import resumable_folder
from weightsmith.engine.output.run_digest import input_files, output_digest, run_digest
from weightsmith.engine.run_tensors import NotFinite, OnBytes, RunSettings, Tally, run_tensors
from weightsmith.engine.stages.plan_stages import open_plan, stages_to_write
from weightsmith.errors import MergeError, OutputError
from weightsmith.files.output_folder import check_output
from weightsmith.machine import available_cores, usable_devices
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.progress import OnProgress, counted, no_progress
from weightsmith.recipe.recipe import Recipe, load_recipe
from weightsmith.tokenizer.merged_tokenizer import write_merged_tokenizer
from weightsmith.tokenizer.tokenizer_files import bytes_beside_weights
from weightsmith.units import parse_shard_size, parse_size

if TYPE_CHECKING:
    import torch

RECIPE_COPY = "merge_recipe.yml"
ADAPTER_CONFIG = "adapter_config.json"
DEFAULT_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class MergeSummary:
    """Summary of a finished merge. `resumed`: tensors that an interrupted run had finished; `phases`:
    seconds of all threads together by what they did; `seed`: None where nothing was drawn at random; `done_already`:
    `out` held this very merge, and nothing was computed; `lines_alpha`: the automatic one, where it was asked for."""

    out: Path
    method: str
    models: int
    tensors: int
    read_bytes: int
    written_bytes: int
    seconds: float
    trim_ties: int
    not_finite: tuple[NotFinite, ...]
    resumed: int
    phases: dict[str, float]
    seed: int | None
    done_already: bool = False
    lines_alpha: float | None = None  # that LiNeS found
    lora_loss: AdapterLoss | None = None  # of a result that is an adapter: what its rank leaves out
    device: str = "cpu"  # that `auto` found, or was asked for
    license_warning: str | None = None  # where the inputs' cards do not agree on one


@overload
def merge(
    recipe: Recipe | Path | str | Mapping[str, Any],
    out: None = None,
    *,
    threads: int | None = None,
    on_nan: Literal["error", "warn"] = "error",
    seed: int = 0,
    device: str = "cpu",
    memory: int | str | None = None,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
    allow_different_settings: bool = False,
    on_progress: OnProgress = no_progress,
    on_plan: Callable[[Plan], None] | None = None,
) -> dict[str, torch.Tensor]: ...


@overload
def merge(
    recipe: Recipe | Path | str | Mapping[str, Any],
    out: Path | str,
    *,
    threads: int | None = None,
    out_shard_size: int | str = DEFAULT_SHARD_BYTES,
    force: bool = False,
    restart: bool = False,
    on_nan: Literal["error", "warn"] = "error",
    seed: int = 0,
    device: str = "cpu",
    memory: int | str | None = None,
    ray: str | None = None,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
    allow_different_settings: bool = False,
    keep_stages: bool = False,
    lora_rank: int | None = None,
    card: bool = True,
    on_progress: OnProgress = no_progress,
    on_plan: Callable[[Plan], None] | None = None,
) -> MergeSummary: ...


def merge(
    recipe: Recipe | Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    *,
    threads: int | None = None,
    out_shard_size: int | str = DEFAULT_SHARD_BYTES,
    force: bool = False,
    restart: bool = False,
    on_nan: Literal["error", "warn"] = "error",
    seed: int = 0,
    device: str = "cpu",
    memory: int | str | None = None,
    ray: str | None = None,
    mappings: Mapping[str, Path] | None = None,
    accept_mapping: bool = False,
    allow_different_settings: bool = False,
    keep_stages: bool = False,
    lora_rank: int | None = None,
    card: bool = True,
    on_progress: OnProgress = no_progress,
    on_plan: Callable[[Plan], None] | None = None,
) -> MergeSummary | dict[str, torch.Tensor]:
    """Merge as `recipe` says: into the new folder `out` (weights, config, tokenizer, chat template, the recipe,
    checksums, a model card and what it was made from), or, without a folder, in memory: name -> tensor, in the output's
    dtype and shape, bit for bit what would be written.

    `recipe`: a `Recipe`, a file, or a mapping with mergekit's keys. `out_shard_size`: bytes, or a size such as "5GB" or
    mergekit's "5B". The bytes do not depend on `threads`; `seed` is that of the methods that draw random numbers. A run
    that was interrupted or killed is continued by the same call, to the same bytes, and one that was finished is left
    as it is; `restart` discards an interrupted one; `force` replaces an output that exists. `on_nan`: NaN and
    infinities in the inputs are an error, or counted (in memory: a Python warning). `device`: where blocks are
    combined, `cpu`, or one that torch knows, which gives the plain form of the method, and so bytes of its own;
    several in the form `cuda:0,cuda:1`, and `cuda` for all that are visible; each takes other tensors. `memory`: bytes
    of each that may be taken, or a size such as "4GB", instead of what is free. `ray`: the
    address of a Ray cluster whose workers make the shards, or `auto`, or `local`. `mappings` and `accept_mapping` are
    for models in a layout of their own (docs/naming-schemes.md); `allow_different_settings` merges models that
    config.json makes different functions, such as of 4 heads and of 8. `keep_stages`: of a recipe with several
    documents, the result of each stays in `OUT-stages/NAME`; otherwise a stage is computed as the next one reads it,
    or, where its tokenizer is a new one, written and removed in the end. `lora_rank`: the result is a LoRA adapter of
    that rank on the base model, in peft's format, instead of full weights: what the merge adds to each linear layer, as
    near as the rank allows; what else it changes is refused. `card`: write README.md and provenance.json, for which
    local inputs are hashed. `on_progress` receives a `Progress` in bytes;
    `on_plan` the plan, before a weight is read.

    Raises RecipeError, CheckpointError, PlanError, MergeError or OutputError, and then leaves nothing behind.

    >>> ws.merge("ties.yml", "merged").method
    'ties'
    >>> tensors = ws.merge("ties.yml")
    >>> tensors["model.norm.weight"].dtype
    torch.bfloat16
    """
    recipe = load_recipe(recipe)
    device = usable_devices(device)
    memory = parse_size(memory, "memory") if isinstance(memory, str) else memory
    if memory is not None and device == "cpu":
        raise MergeError(
            "memory: a limit for an accelerator, and goes with device; on the processor, memory grows with threads"
        )
    plan_it = partial(
        open_plan,
        mappings=mappings,
        accept_mapping=accept_mapping,
        allow_different_settings=allow_different_settings,
        state_dicts=True,
        seed=seed,
        tolerant=on_nan == "warn",
    )
    if lora_rank is not None and (out is None or ray or device != "cpu" or on_nan == "warn" or lora_rank < 1):
        raise OutputError(
            f"lora_rank {lora_rank}: an adapter of rank 1 or more is written into a folder, by this machine's "
            "processor, from weights without NaN; leave out device, ray and on_nan"
        )
    if out is None:
        return _merge_in_memory(
            plan_it(recipe),
            threads or available_cores(),
            RunSettings(seed, tolerant=on_nan == "warn", device=device, memory=memory),
            on_progress,
            on_plan,
        )
    out = Path(out)
    job = _Job(
        threads or available_cores(),
        parse_shard_size(out_shard_size) if isinstance(out_shard_size, str) else out_shard_size,
        RunSettings(seed, tolerant=on_nan == "warn", device=device, memory=memory),
        restart=restart,
        mappings=dict(mappings or {}),
        accept_mapping=accept_mapping,
        allow_different_settings=allow_different_settings,
        plan=plan_it,
        card=card,
        on_progress=on_progress,
        on_plan=on_plan,
    )
    finish = partial(_merge_to_adapter, rank=lora_rank) if lora_rank else partial(_merge_to_folder, ray=ray)
    written: dict[str, Path] = {}
    stages = out.absolute().parent / f"{out.name}-stages"
    for name in stages_to_write(recipe, all_of_them=keep_stages):
        _merge_to_folder(recipe.stages[name], stages / name, job, written, force=False, ray=None)
        written[name] = stages / name
    summary = finish(recipe, out, job, written, force=force)
    if written and not keep_stages:
        for folder in written.values():
            shutil.rmtree(folder)
        if not any(stages.iterdir()):
            stages.rmdir()
    return summary


@dataclass(frozen=True)
class _Job:
    """What all stages of a merge share."""

    threads: int
    shard_bytes: int
    settings: RunSettings
    restart: bool
    mappings: dict[str, Path]
    accept_mapping: bool
    allow_different_settings: bool
    plan: Callable[..., Plan]
    card: bool
    on_progress: OnProgress
    on_plan: Callable[[Plan], None] | None


@dataclass(frozen=True)
class _Begun:
    """A merge that is planned. `run`: what it is, for a resume; `made_by`: the same of its output; `done`: the output
    is there already."""

    started: float
    plan: Plan
    stamps: InputStamps
    run: dict[str, str]
    made_by: str
    inputs: list[Path]
    done: bool


def _begin(
    recipe: Recipe, out: Path, job: _Job, written: Mapping[str, Path], *, force: bool, shard_bytes: int, **more: str
) -> _Begun:
    """`written`: the folders of stages that it may use; `more`: what else makes it another run."""
    started, settings = time.monotonic(), job.settings
    again = (out / CHECKSUMS).is_file() and not force  # perhaps this very merge, finished
    if not again:
        check_output(out, force=force, inputs=None)
    plan = job.plan(recipe, written=written)
    if job.on_plan:
        job.on_plan(plan)
    stamps, models = InputStamps(plan.models.values()), plan.models.values()
    run = run_digest(plan, shard_bytes, settings.seed, settings.device, job.mappings) | more
    made_by = output_digest(run | {"on_nan": "warn" if settings.tolerant else "error"})
    own_file = [recipe.file.path] if recipe.file.path.is_file() else []  # it may be keywords
    inputs = [*(path for model in models for path in model.files), *own_file, *job.mappings.values()]
    return _Begun(
        started, plan, stamps, run, made_by, inputs, done=again and is_written(out, made_by, input_files(models))
    )


def _merge_to_folder(
    recipe: Recipe, out: Path, job: _Job, written: Mapping[str, Path], *, force: bool, ray: str | None
) -> MergeSummary:
    """One stage, or the only one, as full weights."""
    settings, seed = job.settings, job.settings.seed
    begun = _begin(recipe, out, job, written, force=force, shard_bytes=job.shard_bytes)
    plan, run = begun.plan, begun.run
    if begun.done:
        return _summary(out, begun, plan, seed, done_already=True)
    with resumable_folder(
        out,
        run,
        force=force,
        restart=job.restart,
        weights_bytes=plan.output_bytes,
        beside=bytes_beside_weights(plan.home.home, len(plan.tensors)),
        inputs=begun.inputs,
    ) as scratch:
        folder = scratch.folder
        plan = know_whole_model(plan, job.threads, settings, job.on_progress)

        def runner(
            unfinished: Sequence[TensorPlan],
            writer: ShardWriter,
            on_shard_progress: OnBytes,
            on_tensor: Callable[[str, Tally], None],
        ) -> Tally:
            if ray is None:
                return run_tensors(
                    unfinished,
                    plan.method,
                    writer,
                    job.threads,
                    on_shard_progress,
                    settings=settings,
                    on_tensor=on_tensor,
                    may_fork=True,
                )
            ray_job = RayJob(
                recipe.file.path.absolute(),
                recipe.file.text,
                Path.cwd(),
                folder,
                run,
                job.shard_bytes,
                job.threads,
                seed,
                settings.tolerant,
                settings.device,
                settings.memory,
                job.mappings,
                job.accept_mapping,
                job.allow_different_settings,
                dict(written),
                known_of(plan),
            )
            return run_on_ray(ray_job, unfinished, writer.file_of, ray, on_shard_progress, on_tensor)

        progress = counted(job.on_progress, "merging", "bytes")
        tally = run_journaled(scratch, run, plan.tensors, job.shard_bytes, progress, runner, begun.stamps)
        write_merged_tokenizer(plan.home, plan.vocabulary, plan.chat_template, folder)
        if not plan.home.is_state_dict:
            (folder / "config.json").write_text(json.dumps(plan.config, indent=2) + "\n", encoding="utf-8")
        (folder / RECIPE_COPY).write_text(recipe.file.text, encoding="utf-8")
        about_license = _write_card(folder, begun, plan, job)
        write_checksums(folder, tally.digests, begun.made_by)
    summary = _summary(out, begun, plan, seed, tally, len(scratch.finished))
    return replace(summary, license_warning=about_license, device=settings.device)


def _merge_to_adapter(
    recipe: Recipe, out: Path, job: _Job, written: Mapping[str, Path], *, force: bool, rank: int
) -> MergeSummary:
    """The result as a LoRA adapter on the base model."""
    seed = job.settings.seed
    begun = _begin(recipe, out, job, written, force=force, shard_bytes=0, lora_rank=str(rank))
    plan, run = begun.plan, begun.run
    adapter = plan_adapter(plan, rank)
    if begun.done:
        return _summary(out, begun, plan, seed, done_already=True)
    nbytes = sum(tensor.info.nbytes for tensor in adapter.pairs)
    with resumable_folder(
        out, run, force=force, restart=job.restart, weights_bytes=nbytes, beside=0, inputs=begun.inputs
    ) as scratch:

        def runner(
            unfinished: Sequence[TensorPlan],
            writer: ShardWriter,
            on_progress: OnBytes,
            on_tensor: Callable[[str, Tally], None],
        ) -> Tally:
            return make_adapter(adapter, unfinished, writer, job.threads, on_progress, on_tensor, seed=seed)

        if (scratch.folder / ADAPTER_WEIGHTS).is_file():  # killed when it was nearly done
            (scratch.folder / ADAPTER_WEIGHTS).rename(scratch.folder / SINGLE)
        progress = counted(job.on_progress, "merging", "bytes")
        tally = run_journaled(scratch, run, adapter.pairs, max(1, nbytes), progress, runner, begun.stamps)
        (scratch.folder / SINGLE).rename(scratch.folder / ADAPTER_WEIGHTS)
        (scratch.folder / ADAPTER_CONFIG).write_text(json.dumps(adapter.config, indent=2) + "\n", encoding="utf-8")
        (scratch.folder / RECIPE_COPY).write_text(recipe.file.text, encoding="utf-8")
        about_license = _write_card(scratch.folder, begun, plan, job, adapter=True)
        write_checksums(scratch.folder, tally.digests, begun.made_by)
    summary = _summary(out, begun, plan, seed, tally, len(scratch.finished))
    return replace(
        summary,
        tensors=len(adapter.pairs),
        written_bytes=nbytes,
        lora_loss=AdapterLoss(tally.lost),
        license_warning=about_license,
    )


def _write_card(folder: Path, begun: _Begun, plan: Plan, job: _Job, *, adapter: bool = False) -> str | None:
    """What is to be said about the license; None too where no card is asked for."""
    if not job.card:
        return None
    seed = job.settings.seed
    about_license = write_merge_card(
        folder, plan, seed=seed, threads=job.threads, adapter=adapter, on_progress=job.on_progress
    )
    begun.stamps.check()
    return about_license


def _summary(
    out: Path,
    begun: _Begun,
    plan: Plan,
    seed: int,
    tally: Tally | None = None,
    resumed: int = 0,
    *,
    done_already: bool = False,
) -> MergeSummary:
    tally = tally or Tally()
    return MergeSummary(
        out,
        plan.method.name,
        len(plan.models),
        len(plan.tensors),
        plan.read_bytes,
        plan.output_bytes,
        time.monotonic() - begun.started,
        tally.ties,
        tuple(tally.not_finite),
        resumed,
        tally.seconds,
        seed if plan.method.random else None,
        done_already,
        known_of(plan).get("lines_alpha"),
    )


def _merge_in_memory(
    plan: Plan,
    threads: int,
    settings: RunSettings,
    on_progress: OnProgress,
    on_plan: Callable[[Plan], None] | None,
) -> dict[str, torch.Tensor]:
    from weightsmith.engine.in_memory import compute_tensors

    if on_plan:
        on_plan(plan)
    plan = know_whole_model(plan, threads, settings, on_progress)
    not_finite: list[NotFinite] = []
    tensors = compute_tensors(
        plan.tensors,
        plan.method,
        threads=threads,
        settings=settings,
        on_progress=counted(on_progress, "merging", "bytes"),
        on_tensor=lambda name, tally: not_finite.extend(tally.not_finite),
    )
    if not_finite:
        first = min(not_finite, key=lambda count: (count.tensor, count.model))
        names = {count.tensor for count in not_finite}
        warnings.warn(
            f"{len(names)} tensors have NaN or infinite inputs, such as {first.tensor!r} of {first.model}", stacklevel=3
        )
    return tensors
