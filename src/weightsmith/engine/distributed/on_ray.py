"""A merge on many machines: the workers of a Ray cluster make the output's shards, each shard by one worker.

All machines see the same files under the same paths, and have the same weightsmith. What starts the merge lays the
shards out, keeps the journal, and finishes the folder, as without Ray. A worker that dies costs its shard, which
another makes again.
"""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.engine.distributed.ray_cluster import ray_cluster
from weightsmith.engine.know_whole_model import with_known
from weightsmith.engine.output.run_digest import run_digest
from weightsmith.engine.run_tensors import OnBytes, RunSettings, Tally, run_tensors
from weightsmith.engine.stages.plan_stages import open_plan
from weightsmith.errors import MergeError, WeightsmithError
from weightsmith.files.inputs.yaml_file import parse_yaml
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.recipe.recipe import load_recipe

_TRIES = 3  # of a shard whose worker dies
_SECONDS_BETWEEN_TICKS = 0.2


@dataclass(frozen=True)
class RayJob:
    """What every worker gets. `run` is the digest that a worker's own plan must have."""

    recipe: Path
    text: str
    here: Path
    folder: Path
    run: dict[str, str]
    shard_bytes: int
    threads: int
    seed: int
    tolerant: bool
    device: str
    memory: int | None
    mappings: dict[str, Path]
    accept_mapping: bool
    allow_different_settings: bool = False
    written: dict[str, Path] = field(default_factory=dict)  # the folders of stages
    known: Mapping[str, Any] = field(default_factory=dict)  # what the passes over the whole model found


def run_on_ray(
    job: RayJob,
    tensors: Sequence[TensorPlan],
    files: dict[str, str],
    address: str,
    on_progress: OnBytes | None,
    on_tensor: Callable[[str, Tally], None],
) -> Tally:
    """Like `run_tensors`. `files`: tensor -> the shard that holds it. `address` is a cluster's, `auto` for the one this
    machine is part of, or `local` for one that lives as long as the merge. Raises MergeError where there is no such
    cluster or where a shard's workers die one after the other."""
    shards: dict[str, list[TensorPlan]] = defaultdict(list)
    for tensor in tensors:
        shards[files[tensor.name]].append(tensor)
    sizes = {file: sum(tensor.info.nbytes for tensor in shard_tensors) for file, shard_tensors in shards.items()}
    tally, done, total = Tally(), 0, sum(sizes.values())
    with ray_cluster(address, MergeError) as ray:
        _check_room(ray, job.threads)
        gpus = 1 if job.device.startswith("cuda") else 0
        make = ray.remote(num_cpus=job.threads, num_gpus=gpus, max_retries=_TRIES - 1)(_make_shard)
        pending = {
            make.remote(job, [tensor.name for tensor in shards[file]]): file
            for file in sorted(shards, key=lambda file: -sizes[file])
        }
        while pending:
            ready, _ = ray.wait(list(pending), timeout=_SECONDS_BETWEEN_TICKS)
            for reference in ready:
                file = pending.pop(reference)
                for name, tensor_tally in _result(ray, reference, file):
                    tally.add(tensor_tally)
                    on_tensor(name, tensor_tally)
                done += sizes[file]
            if on_progress:
                on_progress(done, total)
    return tally


def _make_shard(job: RayJob, names: list[str]) -> list[tuple[str, Tally]]:
    """On a worker: these tensors, all of one shard, written and on the disk."""
    os.chdir(job.here)
    plan = open_plan(
        load_recipe(parse_yaml(job.recipe, job.text, several=True)),
        seed=job.seed,
        tolerant=job.tolerant,
        written=job.written,
        state_dicts=True,
        mappings=job.mappings,
        accept_mapping=job.accept_mapping,
        allow_different_settings=job.allow_different_settings,
    )
    _check_same(plan, job)
    plan = with_known(plan, job.known)
    names_to_make, tallies = set(names), []
    writer = ShardWriter(
        job.folder, {tensor.name: tensor.info for tensor in plan.tensors}, job.shard_bytes, resumed=True
    )
    try:
        run_tensors(
            [tensor for tensor in plan.tensors if tensor.name in names_to_make],
            plan.method,
            writer,
            job.threads,
            settings=RunSettings(job.seed, job.tolerant, job.device, job.memory),
            on_tensor=lambda name, tensor_tally: tallies.append((name, tensor_tally)),
        )
        writer.sync()
    finally:
        writer.close(sync=False)
    return tallies


def _check_same(plan: Plan, job: RayJob) -> None:
    own_digest = run_digest(plan, job.shard_bytes, job.seed, job.device, job.mappings)
    if own_digest != job.run:
        differs = ", ".join(sorted(key for key in own_digest if own_digest[key] != job.run.get(key)))
        raise MergeError(
            f"{platform.node()}: this worker sees another {differs} than the machine that started the merge; all "
            "machines need the same weightsmith, and the same files under the same paths"
        )


def _check_room(ray: Any, threads: int) -> None:
    """Without this, ray would wait for ever."""
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if most < threads:
        raise MergeError(f"--threads {threads}: no machine of the cluster has more than {most} cores; ask for fewer")


def _result(ray: Any, reference: Any, file: str) -> list[tuple[str, Tally]]:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, WeightsmithError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise MergeError(
            f"{file}: its worker died {_TRIES} times ({str(error).splitlines()[0]}); the same command resumes what is "
            "left",
            path=file,
        ) from error
