"""Recipes: YAML that grows, nests or never ends, and values of other types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.builders import recipe, write_model
from tests.hostile.fork import EITHER, REFUSED, TAKEN, Case

_MERGE = ("merge", "r.yml", "out", "-q")
_YAML = {
    "null": "null", "empty": "", "true": "true", "zero": "0", "minus one": "-1", "half": "0.5", "many digits": "9" * 400,
    "huge exponent": "1e999", "not a number": ".nan", "infinity": ".inf", "text": "x", "long": "x" * 100_000,
    "list": "[1]", "empty list": "[]", "list in list": "[[1]]", "object": "{a: 1}", "date": "2026-11-26",
    "control characters": '"\\x1b[2J\\0"', "path up": "../../etc", "tag": "!!python/object:os.system x", "other tag": "!!bool x",
    "binary": "!!binary aGVsbG8=", "nobody's home": "~nobody1/x", "hub id of nobody": "nobody/nothing@",
}  # fmt: skip
_KEYS = (
    "merge_method", "base_model", "dtype", "out_dtype", "tokenizer_source", "tokenizer", "parameters", "models", "slices",
    "chat_template", "an_unknown_key",
)  # fmt: skip
_TEXTS: dict[str, bytes] = {
    "empty": b"",
    "a comment": b"# nothing\n",
    "a list": b"- 1\n",
    "a text": b"hello\n",
    "not YAML": b"a: [1\n",
    "tabs": b"a:\n\tb: 1\n",
    "not UTF-8": b"a: \xff\n",
    "UTF-16": "a: 1\n".encode("utf-16"),
    "zeros": b"\0" * 100,
    "control characters": b"a: \x1b[2J\n",
    "two documents": b"a: 1\n---\na: 2\n",
    "a key twice": b"merge_method: linear\nmerge_method: ties\n",
    "deep": b"a: " + b"[" * 5000 + b"]" * 5000,
    "deep mappings": b"a: " + b"{a: " * 2000 + b"}" * 2000,
    "deep blocks": b"".join(b" " * n + b"a:\n" for n in range(300)),
    "an alias in itself": b"a: &a [*a]\n",
    "an alias without an anchor": b"a: *b\n",
    "a merge of itself": b"a: &a {<<: *a}\n",
    "laughs": b"a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 9)),
    "a list of lists as a key": b"? [1, [2]]\n: 3\n",
    "2,000 keys": b"".join(b"k%d: 1\n" % n for n in range(2_000)),
    "8 MB": b"a: " + b"x" * (8 << 20),
    "a directive": b"%YAML 9.9\n---\na: 1\n",
    "an unknown tag": b"a: !x 1\n",
}


def _built(text: str | bytes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for seed, name in enumerate(("good", "other")):
            write_model(folder / name, seed)
        content = text if isinstance(text, bytes) else text.encode()
        (folder / "r.yml").write_bytes(content)

    return build


def cases() -> Iterator[Case]:
    yield Case("a good one", _built(recipe("good", "other")), _MERGE, "", TAKEN)
    for name, text in _TEXTS.items():
        yield Case(name, _built(text), _MERGE, "r.yml")
    whole = recipe("good", "other")
    for key in _KEYS:
        for name, value in _YAML.items():
            lines = [line for line in whole.splitlines() if not line.startswith(key)]
            if key == "models":
                lines = lines[:1]
            yield Case(f"{key}: {name}", _built("\n".join([*lines, f"{key}: {value}", ""])), _MERGE, "r.yml", EITHER)
    for name, value in _YAML.items():
        for place, line in {
            "weight": f"- {{model: other, parameters: {{weight: {value}}}}}",
            "model": f"- {{model: {value}, parameters: {{weight: 1}}}}",
            "parameters of a model": f"- {{model: other, parameters: {value}}}",
            "an unknown parameter": f"- {{model: other, parameters: {{weight: 1, nothing: {value}}}}}",
            "filter": f"- {{model: other, parameters: {{weight: [{{filter: {value}, value: 1}}, 1]}}}}",
        }.items():
            text = recipe("good") + line + "\n"
            yield Case(f"{place}: {name}", _built(text), _MERGE, "r.yml", EITHER)
    for value in ("0", "-1", "1000000000000", "1.5", "x", "[]", "65537"):
        padded = f"{whole}tokenizer: {{source: union, pad_to_multiple_of: {value}}}\n"
        yield Case(f"pad_to_multiple_of {value}", _built(padded), _MERGE, "r.yml")
    yield from _methods()
    yield from _slices()


def _methods() -> Iterator[Case]:
    for method in (
        "ties",
        "dare_ties",
        "breadcrumbs",
        "della",
        "slerp",
        "model_stock",
        "task_arithmetic",
        "passthrough",
    ):
        base = f"merge_method: {method}\nbase_model: good\n"
        yield Case(f"{method} of the base alone", _built(f"{base}models: [{{model: good}}]\n"), _MERGE, "r.yml", EITHER)
        yield Case(f"{method} of nothing", _built(f"{base}models: []\n"), _MERGE, "r.yml")
        for parameter in ("density", "gamma", "epsilon", "lambda", "weight", "t"):
            for value in ("-1", "0", "2", "1e30", "[0, 1e30]", ".nan"):
                entry = f"models: [{{model: other, parameters: {{weight: 1, density: 0.5, {parameter}: {value}}}}}]\n"
                if parameter not in ("density", "weight"):
                    yield Case(f"{method} {parameter} {value}", _built(base + entry), _MERGE, "", EITHER)


def _slices() -> Iterator[Case]:
    for layers in (
        "[0, 3]",
        "[2, 1]",
        "[-1, 2]",
        "[0, 0]",
        "[0]",
        "[]",
        "[0, 1, 2]",
        "[0.5, 1]",
        "[a, b]",
        "x",
        "[0, 1000000000]",
    ):
        text = f"merge_method: passthrough\nslices: [{{sources: [{{model: good, layer_range: {layers}}}]}}]\n"
        yield Case(f"layers {layers}", _built(text), _MERGE, "r.yml", REFUSED)
    for number in (0, 60):
        sources = "".join("- sources: [{model: good, layer_range: [0, 2]}]\n" for _ in range(number))
        text = "merge_method: passthrough\nslices:\n" + (sources or "  []\n")
        yield Case(f"{number} slices", _built(text), _MERGE, "r.yml", EITHER)
