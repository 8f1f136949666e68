"""A merge method in words: what `weightsmith methods` prints."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

from weightsmith.methods.method import REQUIRED, Method, Parameter

_WIDTH = 100
SCOPES = {"shared": "the merge", "input": "each model", "non_base": "each model but the base"}


def one_line(method: Method) -> str:
    """The first sentence of its documentation."""
    text = " ".join(documentation(method).split())
    end = text.find(". ")
    return text[: end + 1] if end > 0 else text


def describe(method: Method) -> str:
    """Title, what it does, paper, models, parameters, cost, advice and an example recipe."""
    return "\n\n".join(part for part in _parts(method) if part)


def facts(method: Method) -> dict[str, Any]:
    """The same as plain values, for programs; a parameter that is `required` has the default None."""
    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "fewest_models": method.inputs[0],
        "most_models": method.inputs[1],
        "needs_base": method.needs_base,
        "cost": method.cost,
        "advice": method.advice,
        "parameters": [
            {
                "name": parameter.name,
                "of": SCOPES[parameter.scope],
                "required": parameter.default is REQUIRED,
                "default": None if parameter.default is REQUIRED else parameter.default,
                "choices": list(parameter.choices or ()),
                "what": parameter.doc,
            }
            for parameter in method.parameters
        ],
    }


def _parts(method: Method) -> Iterator[str]:
    yield f"{method.name}: {method.title}"
    yield from (fill(" ".join(paragraph.split()), _WIDTH) for paragraph in documentation(method).split("\n\n"))
    base = "the base among them" if method.needs_base else "no base model needed"
    yield "\n".join(
        fill(line, _WIDTH, subsequent_indent=" " * 8)
        for line in (
            f"Paper:  {method.paper}",
            f"Models: {method.input_count}, {base}",
            f"Cost:   {method.cost}",
            *([f"Advice: {method.advice}"] if method.advice else []),
        )
    )
    if method.parameters:
        yield "Parameters:\n" + "\n".join(_parameter(parameter) for parameter in method.parameters)
    yield "Example:\n" + "\n".join(f"  {line}" for line in example_recipe(method).splitlines())


def documentation(method: Method) -> str:
    """Its docstring, or that of the method it is a form of."""
    documented = next(c for c in type(method).__mro__ if c.__doc__)
    return inspect.cleandoc(documented.__doc__ or "")


def _parameter(parameter: Parameter) -> str:
    default = parameter.default
    shown = "required" if default is REQUIRED else "not set" if default is None else f"{default}".lower()
    text = f"{parameter.name} ({shown}; of {SCOPES[parameter.scope]}): {parameter.doc}"
    text += f" [{', '.join(parameter.choices)}]" if parameter.choices else ""
    return fill(text, _WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def example_recipe(method: Method, base: str | None = "base", models: Sequence[str] = ()) -> str:
    """A recipe that uses it, with the parameters that have no default. `base` and `models`: YAML scalars; without
    models, as many names as it takes."""
    count = min(max(2, method.inputs[0] - method.needs_base), (method.inputs[1] or 9) - method.needs_base)
    models = models or [f"fine-tune-{number + 1}" for number in range(count)]
    count = len(models)
    own = {p.name: _example(p, count) for p in method.parameters if p.scope != "shared" and p.default is REQUIRED}
    shared = {p.name: _example(p, 2) for p in method.parameters if p.scope == "shared" and p.default is REQUIRED}
    lines = [f"merge_method: {method.name}"]
    if method.needs_base:
        lines.append(f"base_model: {base}")
    lines.append("models:")
    for model in models:
        lines.append(f"  - model: {model}")
        if own:
            lines.append(f"    parameters: {{{_flow(own)}}}")
    if shared:
        lines.append(f"parameters: {{{_flow(shared)}}}")
    return "\n".join([*lines, "dtype: bfloat16"])


def _example(parameter: Parameter, count: int) -> str:
    if parameter.choices:
        return parameter.choices[0]
    if parameter.type is str:
        return "its-text.txt"
    return "true" if parameter.type is bool else f"{1 / count:.3g}"


def _flow(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())
