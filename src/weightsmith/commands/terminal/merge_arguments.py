"""What may stand on the command line of `merge` beside its own options: mergekit-yaml's flags, and parameters of the
merge method in place of a recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from weightsmith.errors import RecipeError

# What mergekit's flags are here: our options, or nothing.
_SAME: dict[str, list[str]] = {
    "--cuda": ["--device", "cuda"],
    "--gpu-rich": ["--device", "cuda"],
    "--no-cuda": ["--device", "cpu"],
    "--no-allow-crimes": [],
    "--no-quiet": [],
    "--no-low-cpu-memory": [],
    "--copy-tokenizer": [],
    "--no-clone-tensors": [],
    "--no-trust-remote-code": [],
    "--no-lazy-unpickle": [],
    "--safe-serialization": [],
    "--no-read-to-gpu": [],
    "--no-multi-gpu": [],
    "--no-async-write": [],
    "--no-unsafe-truncate-embeddings": [],
    "--write-model-card": [],
    "--no-write-model-card": ["--no-card"],
}
_RENAMED = {"--random-seed": "--seed", "--num-threads": "--threads", "-j": "--threads"}
_WITHOUT_MEANING = {
    "--low-cpu-memory": "tensors are read in blocks, so there is little memory to save",
    "--read-to-gpu": "blocks go to the device as they are needed",
    "--multi-gpu": "one device combines the blocks",
    "--lazy-unpickle": "weights are never unpickled: they are read from the file as they are needed",
    "--async-write": "reading, computing and writing overlap as it is",
    "--clone-tensors": "each layer is written as tensors of its own",
    "--trust-remote-code": "the code of a model is never run",
    "--no-safe-serialization": "weights are written as safetensors only",
    "--no-copy-tokenizer": "the tokenizer is written, which the merged model needs",
}
_VALUE_WITHOUT_MEANING = {
    "--lora-merge-cache": "adapters are added as the weights are read, nothing is stored",
    "--lora-merge-dtype": "adapters are added in float32",
    "--write-threads": "reading, computing and writing overlap as it is",
}
_REFUSED = {
    "--unsafe-truncate-embeddings": "rows of the embedding are never cut off by number, as they may be other tokens in "
    "each model; name the vocabulary in the recipe: `tokenizer_source: base`, `union` or a model",
}
_CACHE = "--transformers-cache"


class MergeCommand(TyperCommand):
    """`merge`, whose command line may hold mergekit-yaml's flags and, behind `--method`, parameters by name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click's, of arguments that are all ours."""
        args = _without_mergekit_flags(args)
        if any(argument.partition("=")[0] == "--method" for argument in args):
            own = {name for option in self.params for name in (*option.opts, *option.secondary_opts)}
            args = _with_parameters(args, own)
        return super().parse_args(ctx, args)


def _without_mergekit_flags(args: Sequence[str]) -> list[str]:
    """Our options in place of mergekit's flags. Of those without meaning here, says so in one line."""
    kept: list[str] = []
    remaining = iter(args)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if argument == "--":
            return [*kept, argument, *remaining]
        if short := re.fullmatch(r"-j=?(\d+)", argument):
            kept += ["--threads", short[1]]
        elif name in _RENAMED:
            kept.append(_RENAMED[name] + equals + value)
        elif argument in _SAME:
            kept += _SAME[argument]
        elif argument in _REFUSED:
            raise typer.BadParameter(_REFUSED[argument], param_hint=argument)
        elif argument in _WITHOUT_MEANING:
            _say(argument, _WITHOUT_MEANING[argument])
        elif name in _VALUE_WITHOUT_MEANING or name == _CACHE:
            value = value if equals else _next_value(name, remaining)
            if name == _CACHE:
                os.environ["HF_HUB_CACHE"] = value
            else:
                _say(name, _VALUE_WITHOUT_MEANING[name])
        elif not re.fullmatch(r"-v+", argument):
            kept.append(argument)
    return kept


def _next_value(option: str, remaining: Iterator[str]) -> str:
    value = next(remaining, None)
    if value is None:
        raise typer.BadParameter("requires a value", param_hint=option)
    return value


def _say(flag: str, reason: str) -> None:
    typer.echo(f"{flag}: does nothing here: {reason}", err=True)


def _with_parameters(args: Sequence[str], own: set[str]) -> list[str]:
    """`--density 0.5` of a method as `--parameter density=0.5`."""
    from weightsmith.methods.registry import parameter_names

    known = parameter_names()
    kept: list[str] = []
    remaining = iter(args)
    for argument in remaining:
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and option not in own and name in known:
            kept += ["--parameter", f"{name}={value if equals else _next_value(option, remaining)}"]
        else:
            kept.append(argument)
    return kept


def recipe_of_options(
    method: str, models: Sequence[str], base: str | None, parameters: Sequence[str], dtype: str | None
) -> dict[str, Any]:
    """The recipe that `--method ties --base B --density 0.5 A B` stands for. A value is a number, true or false, a
    gradient `[0.2,0.8]`, or `0.6,0.4`, one for each model. Raises RecipeError."""
    from weightsmith.methods.registry import find_method

    known = find_method(method)
    shared: dict[str, Any] = {}
    of_models: list[dict[str, Any]] = [{} for _ in models]
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals:
            raise RecipeError(f"--parameter {parameter!r} is not NAME=VALUE")
        values = text.split(",") if "," in text and not text.startswith("[") else None
        if values is None:
            value = _value(name, text)
            declared = next((p for p in known.parameters if p.name == name), None) if known else None
            if declared is None or declared.scope == "shared":
                shared[name] = value
            else:
                for own in of_models:
                    own[name] = value
        elif len(values) != len(models):
            raise RecipeError(
                f"--{name} {text}: {len(values)} values for {len(models)} models; one for each, or one for all"
            )
        else:
            for own, one in zip(of_models, values, strict=True):
                own[name] = _value(name, one)
    entries = [{"model": m, **({"parameters": own} if own else {})} for m, own in zip(models, of_models, strict=True)]
    recipe: dict[str, Any] = {"merge_method": method}
    if base:
        recipe["base_model"] = base
    recipe["models"] = entries
    if shared:
        recipe["parameters"] = shared
    if dtype:
        recipe["dtype"] = dtype
    return recipe


def _value(name: str, text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        if re.fullmatch(r"\w+", text):
            return text  # a word: the recipe's check says whether it is one that is meant
        raise RecipeError(f"--{name} {text}: expected a number, true, false, or a gradient such as [0.2,0.8]") from None
