"""Which tensors of a mixture of experts are the same in the form of one file for each expert and in the fused one. The
names are data (`expert_names.json`), after `transformers/conversion_mapping.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from weightsmith.checkpoint.checkpoint import Checkpoint, TensorInfo
from weightsmith.checkpoint.views.expert_layout import ExpertLayout
from weightsmith.checkpoint.views.experts import FusedTensor, SplitExperts, fuse_experts

_SPLIT = re.compile(r"(?P<module>.*\bexperts)\.(?P<expert>\d+)\.(?P<projection>\w+)\.weight")


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    return json.loads((resources.files("weightsmith.models.naming") / "expert_names.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ExpertForm:
    """`split`: module -> (projections, number of experts), of experts that have a matrix each; `fused`: modules whose
    experts are in one tensor."""

    split: Mapping[str, tuple[tuple[str, str, str], int]]
    fused: frozenset[str]


def expert_form(tensors: Mapping[str, TensorInfo]) -> ExpertForm:
    """How the experts of a model lie in its tensors."""
    members: dict[str, dict[int, set[str]]] = {}
    for name in tensors:
        if match := _SPLIT.fullmatch(name):
            members.setdefault(match["module"], {}).setdefault(int(match["expert"]), set()).add(match["projection"])
    split = {}
    for module, experts in members.items():
        for projections in _data()["projections"]:
            if all(set(projections) <= names for names in experts.values()):
                split[module] = tuple(projections), len(experts)
                break
    gate_up = f".{_data()['fused'][0]}"
    fused = {name.removesuffix(gate_up) for name, info in tensors.items() if name.endswith(gate_up) and _is_fused(info)}
    return ExpertForm(split, frozenset(fused))


def expert_layout(name: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> ExpertLayout | None:
    """How the matrices of all experts lie in the tensor `name`; None for any other tensor."""
    info, data = tensors[name], _data()
    if not info.is_float or not info.numel or not re.search(data["stacked"], name):
        return None
    interleaved = config.get("model_type") in data["interleaved"]
    if name.endswith("_bias") and len(info.shape) == 2:
        parts = 2 if name.endswith(f"{data['fused'][0]}_bias") and info.shape[1] % 2 == 0 else 1
        return ExpertLayout(info.shape[0], parts, 1, info.shape[1] // parts, transposed=interleaved and parts == 2)
    if len(info.shape) == 2:
        return _of_flat(name, info, config)
    if len(info.shape) != 3:
        return None
    experts, rows, columns = info.shape
    first, last = next((pair for pair in data["pairs"] if name.endswith(tuple(pair))), ("", ""))
    if not first:
        return ExpertLayout(experts, 1, rows, columns)
    front = name.removesuffix(first if name.endswith(first) else last)
    pair = tensors.get(f"{front}{first}"), tensors.get(f"{front}{last}")
    shapes = [tensor.shape if tensor else None for tensor in pair]
    transposed = _is_transposed(shapes[0], None, config, shapes[1])
    if transposed:
        rows, columns = columns, rows
    parts = 1
    if name.endswith(first) and shapes[1] and rows == 2 * shapes[1][1 if transposed else 2]:
        parts = 2
    return ExpertLayout(experts, parts, rows // parts, columns, transposed, interleaved and parts == 2)


def _of_flat(name: str, info: TensorInfo, config: Mapping[str, Any]) -> ExpertLayout | None:
    """DBRX has the experts under each other in a matrix: w1 and v1 with a row for each output, w2 for each input."""
    experts = (config.get("ffn_config") or {}).get("moe_num_experts")
    if not isinstance(experts, int) or experts < 1 or info.shape[0] % experts:
        return None
    rows, columns = info.shape[0] // experts, info.shape[1]
    if name.endswith("w2"):
        return ExpertLayout(experts, 1, columns, rows, transposed=True)
    return ExpertLayout(experts, 1, rows, columns)


def _is_fused(info: TensorInfo) -> bool:
    return len(info.shape) == 3


def fused_names(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The tensors of all experts."""
    return [f"{module}.{part}" for module in sorted(expert_form(tensors).fused) for part in _data()["fused"]]


def split_form(tensors: Mapping[str, TensorInfo]) -> ExpertForm:
    """The form that fused experts have when they are split, under today's names."""
    gate_up, projections = _data()["fused"][0], tuple(_data()["projections"][0])
    counts = {module: tensors[f"{module}.{gate_up}"].shape[0] for module in expert_form(tensors).fused}
    return ExpertForm({module: (projections, count) for module, count in counts.items()}, frozenset())


def as_split(source: Checkpoint, like: ExpertForm, config: Mapping[str, Any]) -> Checkpoint | None:
    """`source`, whose experts are fused, in the names of `like`, whose experts are split; None where they are other
    experts."""
    gate_up, down = _data()["fused"]
    fused, taken = [], set()
    for module, (projections, count) in like.split.items():
        here = next((m for m in (module, _renamed(module)) if f"{m}.{gate_up}" in source.tensors), None)
        if here is None or f"{here}.{down}" not in source.tensors:
            continue
        layouts = [expert_layout(f"{here}.{part}", source.tensors, config) for part in (gate_up, down)]
        if not layouts[0] or not layouts[1] or layouts[0].experts != count or layouts[0].parts != 2:
            return None
        parts = [
            tuple(f"{module}.{expert}.{projection}.weight" for projection in projections[:2]) for expert in range(count)
        ]
        fused.append(FusedTensor(f"{here}.{gate_up}", parts, layouts[0]))
        last = [(f"{module}.{expert}.{projections[2]}.weight",) for expert in range(count)]
        fused.append(FusedTensor(f"{here}.{down}", last, layouts[1]))
        taken.update((f"{here}.{gate_up}", f"{here}.{down}"))
    if not fused:
        return None
    renames = {_renamed(module): module for module in like.split}
    others = {_restored(name, renames): name for name in source.tensors if name not in taken}
    return SplitExperts(source, fused, others)


def as_fused(source: Checkpoint, like: Mapping[str, TensorInfo] | None, config: Mapping[str, Any]) -> Checkpoint | None:
    """`source`, whose experts are split, with fused ones, in the layout that the tensors `like` have, else in that of
    the class; None where there are none."""
    form = expert_form(source.tensors)
    gate_up, down = _data()["fused"]
    fused, taken = [], set()
    for module, (projections, count) in form.split.items():
        target = _renamed(module)
        names = [target, module]
        present = next((name for name in names if like and f"{name}.{gate_up}" in like), target)
        shape = like[f"{present}.{gate_up}"].shape if like and f"{present}.{gate_up}" in like else None
        rows, columns = source.tensors[f"{module}.0.{projections[0]}.weight"].shape
        transposed = _is_transposed(shape, (rows, columns), config)
        interleaved = config.get("model_type") in _data()["interleaved"]
        joined = ExpertLayout(count, 2, rows, columns, transposed, interleaved)
        outputs, size = source.tensors[f"{module}.0.{projections[2]}.weight"].shape
        single = ExpertLayout(count, 1, outputs, size, transposed)
        gate, up, last = (
            [f"{module}.{expert}.{projection}.weight" for expert in range(count)] for projection in projections
        )
        fused.append(FusedTensor(f"{present}.{gate_up}", list(zip(gate, up, strict=True)), joined))
        fused.append(FusedTensor(f"{present}.{down}", [(name,) for name in last], single))
        taken.update((*gate, *up, *last))
    if not fused:
        return None
    others = {_other(name, like): name for name in source.tensors if name not in taken}
    return fuse_experts(source, fused, others)


def _is_transposed(
    fused: tuple[int, ...] | None,
    part: tuple[int, ...] | None,
    config: Mapping[str, Any],
    down: tuple[int, ...] | None = None,
) -> bool:
    """Whether fused matrices have their inputs down: by shapes, and by the family where these are square."""
    family = config.get("model_type") in _data()["transposed"]
    if fused and part:
        straight, turned = fused[1:] == (2 * part[0], part[1]), fused[1:] == (part[1], 2 * part[0])
        return turned if straight != turned else family
    if fused and down:  # down is [outputs, size], and outputs are the inputs of gate and up
        straight, turned = (
            (fused[1], fused[2]) == (2 * down[2], down[1]),
            (fused[2], fused[1]) == (2 * down[1], down[2]),
        )
        return turned if straight != turned else family
    return family


def _renamed(module: str) -> str:
    for old, new in _data()["modules"]:
        module = re.sub(rf"\b{old}\b", new, module)
    return module


def _other(name: str, like: Mapping[str, TensorInfo] | None) -> str:
    """The name of a tensor beside the experts in the other form: its router's module is called otherwise there."""
    renamed = _renamed(name)
    return renamed if renamed != name and (like is None or renamed in like) else name


def _restored(name: str, renames: Mapping[str, str]) -> str:
    for new, old in renames.items():
        parent, original = new.rpartition(".")[0], old.rpartition(".")[0]
        if new != old and name.startswith(f"{parent}."):
            return original + name.removeprefix(parent)
    return name
