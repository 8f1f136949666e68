"""Pipeline files and suites: values of other types, names that are paths, stages that name nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.builders import write_model
from tests.hostile.corpus.values import RAW, WRONG, written
from tests.hostile.fork import EITHER, REFUSED, Case

_MERGE = {
    "merge_method": "linear",
    "models": [{"model": name, "parameters": {"weight": 0.5}} for name in ("good", "other")],
}
_RUN = ("run", "p.yml", "out", "-q")
_KEYS = ("merge", "export", "evaluate", "report", "an_unknown_key")
_EVALUATE = (
    "models", "questions", "texts", "suites", "tasks", "limit", "budget", "fewshot", "data", "include", "base", "parents",
    "chat", "system", "precision", "memory",
)  # fmt: skip
_SUITE = {
    "name": "mine",
    "about": "mine",
    "source": "me",
    "parts": [{"name": "p", "tasks": [{"questions": "q.jsonl"}]}],
}
_EVALUATED = ("evaluate", "good", "--suite", "s.yaml", "-o", "out", "-q")


def _built(pipeline: str | bytes, suite: str | bytes = "") -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for seed, name in enumerate(("good", "other")):
            write_model(folder / name, seed)
        (folder / "q.jsonl").write_text('{"prompt": "a", "target": "b"}\n')
        for name, content in (("p.yml", pipeline), ("s.yaml", suite)):
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return build


def _text(**keys: Any) -> str:
    return json.dumps({"merge": _MERGE} | keys)


def cases() -> Iterator[Case]:
    for name, content in RAW.items():
        yield Case(f"p.yml: {name}", _built(content), _RUN, "p.yml")
    for key in _KEYS:
        for name in WRONG:
            harmless = (key == "report" and name in ("null", "empty object")) or (
                key == "export" and name == "empty list"
            )
            if not harmless and not (key == "evaluate" and name == "null"):
                yield Case(f"{key}: {name}", _built(written({"merge": _MERGE}, key, name)), _RUN, "p.yml")
    for key in _EVALUATE:
        for name in WRONG:
            stage = written({"questions": ["q.jsonl"], "budget": "0s"}, key, name)
            text = f'{{"merge": {json.dumps(_MERGE)}, "evaluate": {stage}}}'
            if not _is_harmless(key, name):
                yield Case(f"evaluate.{key}: {name}", _built(text), _RUN, "")
    for name in ("$nothing", "$q4_k_m", "nowhere", "../../etc", "$merged+x", "a\nb", ""):
        stage = {"models": {"a": name}, "questions": ["q.jsonl"]}
        yield Case(f"models: {name!r}", _built(_text(evaluate=stage)), _RUN, "")
    for name in ("q9_z", "../f16", "f16\n", "F32,F16", "imatrix"):
        yield Case(f"export: {name!r}", _built(_text(export=[name])), _RUN, "p.yml")
    yield Case("the recipe is the pipeline", _built(json.dumps({"merge": "p.yml"})), _RUN, "p.yml")
    yield Case("a recipe that is not there", _built(json.dumps({"merge": "no.yml"})), _RUN, "p.yml")
    for out in ("good", ".", "p.yml", "good/out"):
        yield Case(f"run into {out}", _built(_text()), ("run", "p.yml", out, "-q"), "", REFUSED, ())
    yield from _suites()


def _is_harmless(key: str, name: str) -> bool:
    """What a stage may have, or what sends it into the long work that other cases do."""
    values = {
        "questions": ("null",), "chat": ("zero",), "system": ("text", "empty text", "null", "path up", "long text", "number as text",
        "control characters", "half a pair"), "limit": ("null", "huge", "huger"), "fewshot": ("null", "zero", "huge", "huger"),
    }  # fmt: skip
    optional = ("models", "budget", "data", "base", "parents", "memory")
    empty = ("texts", "suites", "tasks", "include", "parents")
    return (
        name in values.get(key, ())
        or (key in optional and name == "null")
        or (key in empty and name == "empty list")
        or (key == "parents" and name in ("list",))
        or key in ("budget", "memory")
    )


def _suites() -> Iterator[Case]:
    good = _text()
    for name, content in RAW.items():
        yield Case(f"s.yaml: {name}", _built(good, content), _EVALUATED, "s.yaml")
    for key in ("name", "about", "source", "parts", "an_unknown_key"):
        for name in WRONG:
            if key in ("about", "source") and isinstance(WRONG[name], str) and name != "control characters":
                continue
            if key == "name" and name in ("text", "number as text"):
                continue
            yield Case(f"suite, {key}: {name}", _built(good, written(_SUITE, key, name)), _EVALUATED, "s.yaml", EITHER)
    for path in ("../evil", "a/b", "..", "/tmp/evil", "a\\b", "a\nb"):
        suite = json.dumps(_SUITE | {"name": path})
        yield Case(f"suite called {path!r}", _built(good, suite), _EVALUATED, "s.yaml")
    for name in ("../../etc/passwd", "/etc/hosts", "nous/../nous", "", "\x1b[2J"):
        command = ("evaluate", "good", "--suite", name, "-o", "out", "-q")
        yield Case(f"--suite {name!r}", _built(good), command, "suite")
    entry: dict[str, Any] = {"questions": "q.jsonl"}
    for key in ("questions", "text", "task", "metric", "filter", "fewshot", "choices", "alias", "baseline", "scale"):
        for name in (
            "null",
            "true",
            "minus one",
            "huger",
            "empty text",
            "list in list",
            "object",
            "not a number",
            "path up",
        ):
            part = f'{{"name": "p", "tasks": [{written(entry, key, name)}]}}'
            suite = json.dumps(_SUITE | {"parts": "PART"}).replace('"PART"', f"[{part}]")
            yield Case(f"suite entry, {key}: {name}", _built(good, suite), _EVALUATED, "", EITHER)
