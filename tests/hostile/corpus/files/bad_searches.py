"""Search files, mappings, and recipes of an ablation: values of other types, spaces that are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.builders import recipe, weights, write_model
from tests.hostile.corpus.values import RAW, WRONG, written
from tests.hostile.fork import EITHER, REFUSED, Case

_SEARCH = ("search", "s.yml", "out", "-q")
_ENTRY = {"model": "other", "parameters": {"weight": {"uniform": [0.1, 0.9]}}}
_RECIPE = {"merge_method": "linear", "models": [{"model": "good", "parameters": {"weight": 0.5}}, _ENTRY]}
_FILE: dict[str, Any] = {"recipe": _RECIPE, "objective": [{"questions": "no.jsonl"}], "trials": 1}
_KEYS = (
    "recipe",
    "objective",
    "sampler",
    "trials",
    "time",
    "seed",
    "held_out",
    "prune",
    "data",
    "include",
    "chat",
    "no_key",
)
_OBJECTIVE = ("task", "questions", "perplexity", "metric", "filter", "fewshot", "limit", "direction", "weight", "name")


def _built(text: str | bytes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for seed, name in enumerate(("good", "other")):
            write_model(folder / name, seed)
        (folder / "q.jsonl").write_text('{"prompt": "a", "target": "b"}\n' * 4)
        (folder / "s.yml").write_bytes(text.encode() if isinstance(text, str) else text)
        (folder / "r.yml").write_text(recipe("good", "other"))

    return build


def search_cases() -> Iterator[Case]:
    """`no.jsonl` is not there, so that a file without another fault is refused as well, before models are run."""
    for name, content in RAW.items():
        yield Case(f"s.yml: {name}", _built(content), _SEARCH, "s.yml")
    for key in _KEYS:
        for name in WRONG:
            yield Case(f"{key}: {name}", _built(written(_FILE, key, name)), _SEARCH, "s.yml")
    for key in _OBJECTIVE:
        for name in WRONG:
            entry = written({"questions": "no.jsonl"}, key, name)
            text = json.dumps(_FILE | {"objective": "ENTRY"}).replace('"ENTRY"', f"[{entry}]")
            yield Case(f"objective.{key}: {name}", _built(text), _SEARCH, "s.yml")
    for space in (
        "{}", '{"uniform": [1]}', '{"uniform": 1}', '{"uniform": [2, 1]}', '{"uniform": [1, 1]}', '{"uniform": [0, 1e999]}',
        '{"uniform": ["a", 1]}', '{"uniform": [0, 1], "step": 0}', '{"uniform": [0, 1], "step": -1}',
        '{"uniform": [0, 1], "step": 1e-300}', '{"uniform": [0, 1], "step": "x"}', '{"uniform": [NaN, 1]}', '{"uniform": null}',
        '{"loguniform": [0, 1]}', '{"loguniform": [1e-300, 1e300]}', '{"choice": []}', '{"choice": 1}', '{"choice": [[1]]}',
        '{"choice": [{"uniform": [0, 1]}]}', '{"choice": ["x", "y"]}', '{"choice": [1, 1]}', '{"choice": [null]}',
        '{"uniform": [0, 1], "what": 1}', '{"uniform": [0, 1], "int": [0, 1]}', '{"int": [0, 1000000000000000000]}',
        '{"int": [0, 1e18]}', '{"int": [0.5, 1]}', '{"int": [0, 10], "step": 0.5}', '{"uniform": [0, 1000000000], "step": 1}',
    ):  # fmt: skip
        for sampler in ("tpe", "grid", "cmaes"):
            text = json.dumps(_FILE | {"sampler": sampler}).replace('{"uniform": [0.1, 0.9]}', space)
            yield Case(f"space {space}, {sampler}", _built(text), _SEARCH, "", REFUSED)
    there = {"objective": [{"questions": "q.jsonl"}], "sampler": "grid"}
    text = json.dumps(_FILE | there).replace('{"uniform": [0.1, 0.9]}', '{"int": [0, 1000000000000000000]}')
    yield Case("a grid of many points", _built(text), _SEARCH, "s.yml")
    for out in ("good", "s.yml", "good/out", "q.jsonl/out"):
        yield Case(f"search into {out}", _built(json.dumps(_FILE)), ("search", "s.yml", out, "-q"), "", REFUSED, ())
    for command in (("--resume",), ("--resume", "--force"), ("--trials", "0"), ("--workers", "-1"), ("--workers", "x")):
        yield Case(f"search {command}", _built(json.dumps(_FILE)), (*_SEARCH, *command), "", REFUSED)
    for option, value in (
        ("--questions", "no.jsonl"),
        ("--text", "no.txt"),
        ("--questions", "r.yml"),
        ("--metric", "x"),
    ):
        command = ("ablate", "r.yml", "out", option, value, "-q")
        yield Case(f"ablate {option} {value}", _built(json.dumps(_FILE)), command, "", REFUSED)
    for out in ("good", "r.yml", "good/out"):
        command = ("ablate", "r.yml", out, "--questions", "q.jsonl", "-q")
        yield Case(f"ablate into {out}", _built(json.dumps(_FILE)), command, "", REFUSED, ())


def mapping_cases() -> Iterator[Case]:
    """A mapping of the names of one model to those of another, which has its own."""
    command = ("unify", "strange", "out", "--like", "good", "--mapping", "m.json", "-q")

    def built(content: str | bytes) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            write_model(folder / "good", 0)
            write_model(folder / "strange", 1)
            (folder / "m.json").write_bytes(content.encode() if isinstance(content, str) else content)

        return build

    for name, content in RAW.items():
        yield Case(f"m.json: {name}", built(content), command, "m.json", EITHER)
    name = "model.layers.{n}.mlp.up_proj.weight"
    whole: dict[str, Any] = {"tensors": [[key, key] for key in weights(0)]}
    for key in ("tensors", "layout", "family", "config", "detect", "no_key", "same_names"):
        for name in WRONG:
            yield Case(f"mapping, {key}: {name}", built(written(whole, key, name)), command, "m.json", EITHER)
    for place in (0, 1, 2):
        for wrong in WRONG:
            entry: list[Any] = [name, name, {"rows": [16]}]
            marked = json.dumps({"tensors": [[*entry[:place], "ENTRY", *entry[place + 1 :]]]})
            value = written({}, "a", wrong)[6:-1]
            yield Case(f"mapping, {place}: {wrong}", built(marked.replace('"ENTRY"', value)), command, "m.json", EITHER)
    for pattern in ("(a+)+$", "{n}" * 50, "{" * 5000, "\\", "[", "(?P<n>.*)*", "{n+999999999999}"):
        text = json.dumps({"tensors": [[name, pattern]]})
        yield Case(f"mapping, pattern {pattern[:20]}", built(text), command, "m.json", EITHER)
