"""The methods that others use as their rule, and how they are used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.blocks.block import Block, Scan
from weightsmith.blocks.threshold import Threshold
from weightsmith.methods.depth_scaling import DEPTH_SCALING
from weightsmith.methods.elementwise.sce import Sce
from weightsmith.methods.matrices.isotropic import IsoC, IsoCts
from weightsmith.methods.matrices.matrix_method import MatrixMethod, matrix_parameters
from weightsmith.methods.matrices.tsv_m import TsvM
from weightsmith.methods.matrices.wudi import ActMat, Aswudi, Swudi
from weightsmith.methods.method import REQUIRED, Method, Parameter, Statistics
from weightsmith.methods.task_vectors.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from weightsmith.methods.task_vectors.dare import DareLinear, DareTies
from weightsmith.methods.task_vectors.della import Della, DellaLinear
from weightsmith.methods.task_vectors.task_arithmetic import TaskArithmetic
from weightsmith.methods.task_vectors.ties import Ties
from weightsmith.methods.tensor_settings import Settings

if TYPE_CHECKING:
    import torch

TASK_VECTOR_METHODS = (
    TaskArithmetic,
    Ties,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    Breadcrumbs,
    BreadcrumbsTies,
)
MATRIX_METHODS = (TsvM, IsoC, IsoCts, Swudi, Aswudi, ActMat)
RULES: dict[str, Method] = {rule.name: rule() for rule in (*TASK_VECTOR_METHODS, Sce, *MATRIX_METHODS)}
_OUTER = {p.name for p in (*matrix_parameters(), *DEPTH_SCALING)} - {"weight"}  # not the rule's
_ROUNDING = 1e-6  # of a model's largest element: what is smaller has a sign by chance, and no vote
_MEMORY_BLOCK = 1 << 22  # elements


def rule_parameters(*more: Parameter, rule: str, embeddings: str, vectors: str) -> tuple[Parameter, ...]:
    """Those of a method that has a rule: which rule, its own (`more`), and those of all rules, unset."""
    own = {p.name for p in more}
    shared = [
        p
        if p.name not in ("embeddings", "vectors")
        else replace(
            p,
            doc=p.doc + "; rule: what the rule gives",
            default=embeddings if p.name == "embeddings" else vectors,
            choices=(*p.choices, "rule"),
        )
        for p in matrix_parameters()
    ]
    of_rules = {
        p.name: replace(p, default=None, doc=f"{p.doc} (of the rules that have it, by default theirs)")
        for method in reversed(RULES.values())
        for p in method.parameters
        if p.name not in _OUTER | own | {"weight", "int8_mask"}
    }
    choice = Parameter("rule", str, "shared", "the method that is used", default=rule, choices=tuple(RULES))
    return (shared[0], choice, *more, *shared[1:], *(of_rules[name] for name in sorted(of_rules)))


class ComposedMethod(MatrixMethod):
    """A method of matrices that has another one merge something: `rule` in its settings."""

    def warning(self, settings: Settings) -> str | None:
        rule, own = rule_of(settings)
        known = {p.name for p in rule.parameters} | _OUTER | {p.name for p in self.parameters if p.default is not None}
        given = {
            n for values in (settings.shared, *settings.per_input) for n, value in values.items() if value is not None
        }
        if unused := sorted(given - known):
            return f"the rule {rule.name} has no {', '.join(unused)}, which does nothing"
        return rule.warning(own)

    def objection(self, settings: Settings) -> str | None:
        rule, own = rule_of(settings)
        return rule.objection(own)

    def statistics(self, scan: Scan, settings: Settings) -> Statistics:
        if _what(settings) != "rule":
            return super().statistics(scan, settings)
        rule, own = rule_of(settings)
        return Statistics({"of_rule": rule.statistics(scan, own)})

    def combine(self, block: Block, settings: Settings, statistics: Statistics) -> torch.Tensor:
        if _what(settings) != "rule":
            return super().combine(block, settings, statistics)
        rule, own = rule_of(settings)
        base = block.inputs[settings.base_index]
        merged = rule.combine(block, own, statistics.values["of_rule"])
        return base + (merged - base) * (settings.shared["lambda"] * settings.scale)


def _what(settings: Settings) -> str:
    """What a tensor that is no matrix gets."""
    if settings.role == "matrix":
        return "matrix"
    return settings.shared["embeddings" if settings.role == "embedding" else "vectors"]


def rule_of(settings: Settings) -> tuple[Method, Settings]:
    """The rule, and its settings: its own defaults where nothing is given, and no factor on what it gives."""
    rule = RULES[settings.shared["rule"]]
    shared = {
        p.name: _given(settings.shared.get(p.name), p)
        for p in rule.parameters
        if p.scope == "shared" and p.name not in _OUTER
    }
    shared |= {p.name: p.default for p in rule.parameters if p.scope == "shared" and p.name in _OUTER}
    shared |= {"lambda": 1.0} if "lambda" in shared else {}
    if settings.role == "matrix" and "embeddings" in shared:
        shared |= {"embeddings": "matrix"}
    per_input = tuple(
        {p.name: _given(values.get(p.name), p) for p in rule.parameters if p.scope != "shared"} if values else {}
        for values in settings.per_input
    )
    return rule, replace(settings, shared=shared, per_input=per_input, scale=1.0)


def _given(value: object, parameter: Parameter) -> object:
    return (1.0 if parameter.default is REQUIRED else parameter.default) if value is None else value


def merge_by_rule(
    deltas: torch.Tensor, settings: Settings, streams: tuple[int, ...], *, whole: bool = False
) -> torch.Tensor:
    """What the rule makes of task vectors float32 [models, rows, columns], which are those of `settings.others`: their
    merged one [rows, columns]. `streams`: of the inputs, the base among them. `whole`: they are one matrix, whatever
    the tensor is made of."""
    import torch

    rule, own = rule_of(settings)
    if whole:
        own = replace(own, matrix=None, role="matrix")
    if deltas.numel():
        deltas = deltas * (deltas.abs() >= _ROUNDING * deltas.abs().amax((1, 2), keepdim=True))
    values = torch.zeros((len(settings.per_input), deltas[0].numel()))
    values[settings.others] = deltas.reshape(len(deltas), -1).cpu()
    scan = MatrixScan(values.numpy(), deltas.shape[2], streams, settings.base_index)
    statistics = rule.statistics(scan, own)
    merged = torch.cat([rule.combine(block, own, statistics) for block in scan.blocks()])
    return merged.view(deltas.shape[1:]).to(deltas.device)


class MatrixScan:
    """One matrix of every input in memory. See `blocks.block.Scan`; `values`: float32 [models, elements]."""

    def __init__(self, values: np.ndarray, width: int, streams: tuple[int, ...], base: int) -> None:
        self.numel, self.begin, self.width, self.streams = values.shape[1], 0, width, streams
        self.shape = (self.numel // width, width)
        self._values, self._base = values, base

    def blocks(self) -> Iterator[Block]:
        step = max(1, _MEMORY_BLOCK // self.width) * self.width
        for start in range(0, self.numel, step):
            block = Block.of(start, np.ascontiguousarray(self._values[:, start : start + step]))
            block.base_index = self._base
            yield block

    def known_bound(self, base: int, number: int, k: int) -> Threshold | None:
        return None

    def low_rank(self, number: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        return None

    def sample(self, count: int) -> np.ndarray:
        return self._values[:, :: max(1, self.numel // count)].copy()
