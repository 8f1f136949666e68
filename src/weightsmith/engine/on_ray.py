"""A merge on many machines: the workers of a Ray cluster make the output's shards, each shard by one worker.

All machines see the same files under the same paths, and have the same weightsmith. What starts the merge lays the shards out,
keeps the journal, and finishes the folder, as without Ray. A worker that dies costs its shard, which another makes again.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.shard_writer import ShardWriter
from weightsmith.engine.ray_cluster import ray_cluster
from weightsmith.engine.run_digest import run_digest
from weightsmith.engine.run_plan import Progress, Tally, run_tensors
from weightsmith.errors import MergeError, WeightsmithError
from weightsmith.recipe.load import load_recipe
from weightsmith.recipe.plan import Plan, TensorPlan, make_plan
from weightsmith.recipe.yaml_file import parse_yaml

_TRIES = 3  # of a shard whose worker dies
_SECONDS_BETWEEN_TICKS = 0.2


@dataclass(frozen=True)
class Order:
    """What every worker is told. `run` is the digest that a worker's own plan must have."""

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
    mappings: dict[str, Path]
    accept_mapping: bool


def run_on_ray(
    order: Order, tensors: Sequence[TensorPlan], files: dict[str, str], address: str, progress: Progress | None,
    on_tensor: Callable[[str, Tally], None],
) -> Tally:  # fmt: skip
    """Like `run_tensors`. `files`: tensor -> the shard that holds it. `address` is a cluster's, `auto` for the one this machine
    is part of, or `local` for one that lives as long as the merge. Raises MergeError where there is no such cluster or where a
    shard's workers die one after the other."""
    shards: dict[str, list[TensorPlan]] = defaultdict(list)
    for tensor in tensors:
        shards[files[tensor.name]].append(tensor)
    sizes = {file: sum(tensor.info.nbytes for tensor in some) for file, some in shards.items()}
    tally, done, total = Tally(), 0, sum(sizes.values())
    with ray_cluster(address, MergeError) as ray:
        _check_room(ray, order.threads)
        gpus = 1 if order.device.startswith("cuda") else 0
        make = ray.remote(num_cpus=order.threads, num_gpus=gpus, max_retries=_TRIES - 1)(_make_shard)
        pending = {
            make.remote(order, [tensor.name for tensor in shards[file]]): file
            for file in sorted(shards, key=lambda file: -sizes[file])
        }
        while pending:
            ready, _ = ray.wait(list(pending), timeout=_SECONDS_BETWEEN_TICKS)
            for reference in ready:
                file = pending.pop(reference)
                for name, one in _result(ray, reference, file):
                    tally.add(one)
                    on_tensor(name, one)
                done += sizes[file]
            if progress:
                progress(done, total)
    return tally


def _make_shard(order: Order, names: list[str]) -> list[tuple[str, Tally]]:
    """On a worker: these tensors, all of one shard, written and on the disk."""
    os.chdir(order.here)
    plan = make_plan(
        load_recipe(parse_yaml(order.recipe, order.text)), mappings=order.mappings, accept_mapping=order.accept_mapping
    )
    _check_same(plan, order)
    wanted, found = set(names), []
    writer = ShardWriter(
        order.folder, {tensor.name: tensor.info for tensor in plan.tensors}, order.shard_bytes, continued=True
    )
    try:
        run_tensors(
            [tensor for tensor in plan.tensors if tensor.name in wanted], plan.method, writer, order.threads, seed=order.seed,
            tolerant=order.tolerant, device=order.device, on_tensor=lambda name, one: found.append((name, one)),
        )  # fmt: skip
        writer.sync()
    finally:
        writer.close(sync=False)
    return found


def _check_same(plan: Plan, order: Order) -> None:
    own = run_digest(plan, order.shard_bytes, order.seed, order.device)
    if own != order.run:
        differs = ", ".join(sorted(key for key in own if own[key] != order.run.get(key)))
        raise MergeError(
            f"{os.uname().nodename}: this worker sees another {differs} than the machine that started the merge; all machines "
            "need the same weightsmith, and the same files under the same paths"
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
            f"{file}: its worker died {_TRIES} times ({str(error).splitlines()[0]}); the same command goes on with what is left"
        ) from error
