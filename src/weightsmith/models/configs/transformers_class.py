"""What the class that a config.json names makes of it: run in a process of its own, as transformers and torch take
seconds and hundreds of MB to import.

The class comes from transformers itself, never from a model's folder, and is built on the meta device: no weight is
made or read.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from weightsmith import child_process
from weightsmith.models.configs.without_code import without_code

_MEMORY = 16 << 30  # bytes of addresses: a config.json may ask for a billion layers
_SECONDS = 300  # more than a trillion parameters take
_SHOWN = 200  # characters of what a process says last


@dataclass(frozen=True)
class ClassCheck:
    """`not_checked`: why there was no class to build; `lists`: per-layer settings that the class derives and that
    config.json is to spell out; `problem`: why the configuration is none; the others: tensors that the class has and
    the model does not, the other way round, and those with another shape."""

    not_checked: str | None = None
    lists: Mapping[str, list[Any]] = field(default_factory=dict)
    problem: str | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()


def check_class(
    config: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    *,
    before: Mapping[str, Any] | None = None,
    section: Sequence[str] = (),
    taken: Sequence[int] | None = None,
    depth: int = 0,
) -> ClassCheck:
    """Build the class of `config` and hold the tensors `shapes` against it. `taken`: the layers of the configuration
    `before` that the output's layers come from; what its class derives for them is to be the same afterwards, in the
    part `section` of config.json, which counted `depth` layers."""
    if not find_spec("transformers") or not find_spec("torch"):
        return ClassCheck(not_checked="transformers is not installed")
    job = {
        "config": without_code(config),
        "shapes": shapes,
        "before": without_code(before) if before else None,
        "section": list(section),
        "taken": taken,
        "depth": depth,
    }
    try:
        return _run(json.dumps(job, sort_keys=True))
    except _NoAnswerError as error:
        return ClassCheck(problem=f"building it without weights {error}")


class _NoAnswerError(Exception):
    """Of the child; says how it ended."""


@lru_cache(maxsize=32)
def _run(job: str) -> ClassCheck:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
    command = child_process.module_command(__name__)
    try:
        process = subprocess.run(
            command, input=job, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise _NoAnswerError(f"takes more than {_SECONDS} seconds") from None
    answer = next((line for line in reversed(process.stdout.splitlines()) if line.startswith("{")), None)
    if answer is None:
        last = (process.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise _NoAnswerError(f"ended with {process.returncode}: {last[:_SHOWN]}")
    result = json.loads(answer)
    return ClassCheck(
        result.get("not_checked"),
        result.get("lists", {}),
        result.get("problem"),
        *(tuple(result.get(key, ())) for key in ("missing", "unexpected", "mismatched")),
    )


def main() -> None:
    """The child: a job in JSON on standard input, a `ClassCheck` in JSON on standard output."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # a system without limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    print(json.dumps(_answer(json.load(sys.stdin, object_hook=_number))))


def _number(entry: dict[str, Any]) -> Any:
    """transformers writes infinity as {"__float__": "Infinity"}."""
    return float(entry["__float__"]) if entry.keys() == {"__float__"} else entry


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    import transformers

    config = job["config"]
    architectures = config.get("architectures") or []
    if not architectures:
        return {"not_checked": "config.json names no class in `architectures`"}
    model_class = getattr(transformers, str(architectures[0]), None)
    if not isinstance(model_class, type) or not issubclass(model_class, transformers.PreTrainedModel):
        return {"not_checked": f"transformers {transformers.__version__} has no class {architectures[0]}"}
    try:
        return _built(model_class, job)
    except Exception as error:  # whatever the class says against its configuration
        text = str(error).strip().splitlines() or [type(error).__name__]
        return {"problem": f"{model_class.__name__}: {text[-1]}"}


def _built(model_class: Any, job: dict[str, Any]) -> dict[str, Any]:
    config, lists = job["config"], {}
    if job["taken"] is not None:
        from weightsmith.models.configs.layer_settings import derived_lists, with_part

        lists, problem = derived_lists(job["before"], config, job["section"], job["taken"], job["depth"], _defaults)
        if problem:
            return {"problem": problem}
        config = with_part(config, job["section"], lists)
    missing, unexpected, mismatched = _loaded(model_class, config, job["shapes"])
    return {
        "lists": lists,
        "missing": missing,
        "unexpected": unexpected,
        "mismatched": mismatched,
    }


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with everything that its class adds."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    derived = {name: getattr(made, name) for name in ("layers_block_type", "layers_num_experts") if hasattr(made, name)}
    return made.to_dict() | derived


def _loaded(
    model_class: Any, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[str], list[str]]:
    """(missing, unexpected, mismatched) as transformers reports them, names in its own checkpoint's form included."""
    import torch

    tensors = {name: torch.empty(tuple(shape), device="meta", dtype=torch.bfloat16) for name, shape in shapes.items()}
    made = model_class.config_class.from_dict({k: v for k, v in config.items() if k != "quantization_config"})
    _, report = model_class.from_pretrained(
        None,
        config=made,
        state_dict=tensors,
        output_loading_info=True,
        device_map={"": "meta"},
        ignore_mismatched_sizes=True,
    )
    mismatched = [entry[0] if isinstance(entry, tuple | list) else entry for entry in report["mismatched_keys"]]
    return sorted(report["missing_keys"]), sorted(report["unexpected_keys"]), sorted(mismatched)


if __name__ == "__main__":
    main()
