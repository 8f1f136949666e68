"""A plan in a terminal: tensors of one kind in one row, with what they are made from and by which parameter values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from weightsmith.architecture.layer_numbers import LAYER
from weightsmith.cli.plain_console import plain_console
from weightsmith.recipe.plan import Plan, TensorPlan


def show_plan(plan: Plan) -> None:
    """Print to standard output."""
    kinds: dict[tuple[object, ...], list[TensorPlan]] = {}
    for tensor in plan.tensors:
        match = LAYER.match(tensor.name)
        name = f"{match[1]}*{match[3]}" if match else tensor.name
        dtypes = tuple(source.model.checkpoint.tensors[source.tensor].dtype for source in tensor.sources)
        kinds.setdefault((name, tensor.info.shape, tensor.info.dtype, dtypes, tensor.copy), []).append(tensor)
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for title in ("tensors", "", "shape", "dtype", "from", "parameters"):
        table.add_column(title, justify="right" if not title else "left", no_wrap=True)
    for (name, _, dtype, dtypes, copy), tensors in kinds.items():
        assert isinstance(dtypes, tuple)
        sources = dtypes[0] if len(set(dtypes)) == 1 else ", ".join(dtypes)
        parameters = "copied from the first" if copy else _parameters(tensors)
        shape = "x".join(map(str, tensors[0].info.shape)) or "1"
        table.add_row(str(name), f"{len(tensors)}", shape, str(dtype), sources, parameters)
    plain_console().print(table)


def _parameters(tensors: list[TensorPlan]) -> str:
    """Each parameter once: `weight 0.5, 0.3`, a value per model that has it, `0.2..0.9` where it changes over the layers."""
    first = tensors[0].settings
    told = []
    for name in dict.fromkeys(name for own in first.per_input for name in own):
        models = [i for i, own in enumerate(first.per_input) if name in own]
        told.append(
            f"{name} " + ", ".join(_span(tensor.settings.per_input[i][name] for tensor in tensors) for i in models)
        )
    told += [f"{name} {_span(tensor.settings.shared[name] for tensor in tensors)}" for name in first.shared]
    return "; ".join(told)


def _span(values: Iterable[Any]) -> str:
    every = list(values)
    if all(value == every[0] for value in every):
        return _show(every[0])
    return f"{_show(min(every))}..{_show(max(every))}"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, int | float) else "none"
