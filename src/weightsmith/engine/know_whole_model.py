"""The passes over a whole model that come before its first tensor is made, where a method needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weightsmith.engine.run_tensors import DEFAULT_RUN, RunSettings
from weightsmith.engine.tensor_scan import Buffers, TensorScan
from weightsmith.engine.text_statistics.know_text import know_text, with_text
from weightsmith.engine.text_statistics.stored_statistics import StandIn
from weightsmith.engine.workers.device_streams import Devices
from weightsmith.engine.workers.on_threads import Stop, on_threads
from weightsmith.methods.depth_scaling import AUTO, MeanLength, scaled
from weightsmith.methods.tensor_settings import Settings
from weightsmith.methods.whole_model import Pass, Totals
from weightsmith.planning.plan import Plan, TensorPlan
from weightsmith.progress import OnProgress, Progress, no_progress

_TEXT = "text"


def passes_of(plan: Plan) -> tuple[Pass, ...]:
    """Those that the plan needs."""
    settings = [tensor.settings for tensor in plan.tensors if _merged(tensor)]
    if not settings:
        return ()
    of_lengths = any(map(_has_auto, settings))
    return (*plan.method.passes(settings[0]), *([MeanLength(plan.method)] if of_lengths else []))


def know_whole_model(
    plan: Plan, threads: int, settings: RunSettings = DEFAULT_RUN, on_progress: OnProgress = no_progress
) -> Plan:
    """The plan with `Settings.whole_model` of every tensor. It does not depend on `threads`. Raises CheckpointError for
    weights that cannot be read."""
    known: dict[str, Any] = {}
    if plan.method.reads_text:
        known[_TEXT] = know_text(plan, threads, settings, on_progress)
    passes = passes_of(plan)
    for number, one in enumerate(passes):
        stage = f"reading the whole model ({number + 1} of {len(passes)})"
        totals = _totals(one, _with(plan.tensors, known), plan, threads, settings, on_progress, stage)
        known |= one.conclude(totals, known)
    return with_known(plan, known)


def know_of_scan(plan: Plan, tensor: TensorPlan, scan: TensorScan) -> TensorPlan:
    """The tensor as if `scan` were all of the model."""
    known: dict[str, Any] = {}
    if plan.method.reads_text:
        stand_in = StandIn(
            scan.shape[0] if tensor.settings.matrix and tensor.settings.matrix.transposed else scan.width
        )
        tensor = replace(tensor, settings=replace(tensor.settings, text=stand_in))
    for one in passes_of(plan):
        totals = Totals()
        one.gather(scan, tensor.settings, totals)
        known |= one.conclude(totals, known)
        (tensor,) = _with([tensor], known)
    return tensor


def with_known(plan: Plan, known: Mapping[str, Any]) -> Plan:
    """The plan with what the passes over the whole model found."""
    return replace(plan, tensors=tuple(_with(plan.tensors, known))) if known else plan


def known_of(plan: Plan) -> Mapping[str, Any]:
    """What the passes over the whole model found."""
    return next((tensor.settings.whole_model for tensor in plan.tensors if _merged(tensor)), {})


def _with(tensors: Sequence[TensorPlan], known: Mapping[str, Any]) -> list[TensorPlan]:
    return [_with_one(tensor, known) if _merged(tensor) else tensor for tensor in tensors]


def _with_one(tensor: TensorPlan, known: Mapping[str, Any]) -> TensorPlan:
    tensor = with_text(tensor, known[_TEXT]) if _TEXT in known else tensor
    return replace(tensor, settings=scaled(replace(tensor.settings, whole_model=known)))


def _merged(tensor: TensorPlan) -> bool:
    return not tensor.copy and tensor.info.numel > 0


def _has_auto(settings: Settings) -> bool:
    return settings.shared.get("lines_alpha") == AUTO


def _totals(
    one: Pass,
    tensors: Sequence[TensorPlan],
    plan: Plan,
    threads: int,
    settings: RunSettings,
    on_progress: OnProgress,
    stage: str,
) -> Totals:
    merged = sorted(filter(_merged, tensors), key=lambda tensor: -tensor.info.numel)
    total, totals, buffers = sum(tensor.read_bytes for tensor in merged), Totals(), Buffers(settings.device)
    done: list[int] = []
    if plan.method.needs_torch or settings.device != "cpu":
        import torch  # noqa: F401  # before the threads start, each of which then has it compute with one

    devices = Devices(settings.device)
    pace = devices.pace(threads, merged, plan.method, settings.memory)

    def work(tensor: TensorPlan, stop: Stop) -> tuple[Totals, int]:
        own, ends = Totals(), tensor.matrix_ends
        with devices.work() as device:
            for part in zip((0, *ends[:-1]), ends, strict=True):
                scan = TensorScan(
                    tensor,
                    buffers,
                    stop,
                    row_wise=plan.method.row_wise,
                    seed=settings.seed,
                    block=pace.block,
                    device=device,
                    bounds=settings.bounds,
                    device_inputs=settings.device_inputs,
                    part=part,
                )
                one.gather(scan, tensor.settings, own)
        return own, tensor.read_bytes

    def tick() -> None:
        on_progress(Progress(stage, sum(done), total, "bytes"))

    for own, nbytes in on_threads(work, merged, pace.threads, tick=tick):  # never forks: a stage may be read in a fork
        totals.include(own)
        done.append(nbytes)
    tick()
    return totals
