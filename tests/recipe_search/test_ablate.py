"""Ablations: the numbers are those of the recipe with the same weights set to zero, merged and scored by themselves."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import pytest

import weightsmith
from tests.browser import CHROMIUM, report_seen
from tests.conftest import weightsmith_process
from tests.recipe_search.test_search import TEXT, stop_at
from weightsmith.errors import OutputError, SearchError


def recipe(models: Path, folder: Path, weights: dict[str, object], method: str = "task_arithmetic") -> Path:
    content = {
        "merge_method": method,
        "base_model": str(models / "base"),
        "models": [{"model": str(models / n), "parameters": {"weight": w}} for n, w in weights.items()],
        "dtype": "float32",
    }
    path = folder / "recipe.yml"
    path.write_text(json.dumps(content))
    return path


def test_what_a_block_is_worth(chat_models: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 2)
    path = recipe(chat_models, tmp_path, {"a": 0.7, "b": 0.4})
    command = ("ablate", path, tmp_path / "out", "--text", tmp_path / "text.txt", "--blocks", 2)
    done = weightsmith_process(*command)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "ablation.csv").open()))
    assert [(row["model"], row["block"]) for row in rows] == [
        ("none", "none"),
        ("a", "layer 0"),
        ("a", "layer 1"),
        ("a", "embeddings and head"),
        ("b", "layer 0"),
        ("b", "layer 1"),
        ("b", "embeddings and head"),
    ]
    assert len({row["text"] for row in rows}) > 4
    # Without `a` in layer 0, as a recipe says it.
    only = [{"filter": "layers.0.", "value": 0.0}, {"value": 0.7}]
    plain = recipe(chat_models, tmp_path, {"a": only, "b": 0.4})
    again = weightsmith.ablate(plain, tmp_path / "again", texts=[str(tmp_path / "text.txt")], blocks=1)
    assert again.whole[0] == float(rows[1]["text"])
    page = (tmp_path / "out" / "ablation.html").read_text()
    assert page.count("<svg") == 1 and "text (perplexity)" in page
    assert str(chat_models) not in page and "model: a" in page
    if CHROMIUM:
        report_seen(tmp_path / "out" / "ablation.html", "ablation")
    assert weightsmith_process(*command).returncode == 2  # the folder is not empty


def test_what_chance_does_is_told(chat_models: Path, tmp_path: Path) -> None:
    """A model whose weight is zero everywhere changes nothing; one that is most of the merge does."""
    (tmp_path / "text.txt").write_text(TEXT * 8)
    path = recipe(chat_models, tmp_path, {"a": 2.0, "b": 0.0})
    result = weightsmith.ablate(path, tmp_path / "out", texts=[str(tmp_path / "text.txt")], blocks=1)
    assert {p for row in result.p["b"] for p in row} == {1.0}
    assert min(p for row in result.p["a"] for p in row) < 0.05
    assert all(
        c >= p
        for label in "ab"
        for a, b in zip(result.p_holm[label], result.p[label], strict=True)
        for c, p in zip(a, b, strict=True)
    )
    assert result.evaluation
    compared = [c for label in result.evaluation.labels[1:] for c in result.evaluation.compare(label, "whole")]
    assert [c.label for c in compared] == [f"without {name} in {block}" for name in "ab" for block in result.blocks]
    assert [c.p for c in compared] == [p for name in "ab" for row in result.p[name] for p in row]  # one paired test
    table = list(csv.DictReader((tmp_path / "out" / "ablation.csv").open()))
    assert [float(row["text: p (Holm)"]) for row in table[1:]] == [
        p for name in "ab" for row in result.p_holm[name] for p in row
    ]
    assert [float(row["text: p"]) for row in table[1:]] == [p for name in "ab" for row in result.p[name] for p in row]


def test_one_that_was_interrupted_goes_on(chat_models: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 2)
    (tmp_path / "sums.jsonl").write_text('{"prompt": "1 + 1 =", "target": "2"}\n{"prompt": "1 + 2 =", "target": "3"}\n')
    path, out = recipe(chat_models, tmp_path, {"a": 0.7, "b": 0.4}), tmp_path / "out"
    expected = {"texts": [str(tmp_path / "text.txt")], "questions": [str(tmp_path / "sums.jsonl")], "blocks": 2}
    with pytest.raises(KeyboardInterrupt):
        weightsmith.ablate(path, out, **expected, metric="perplexity", log=stop_at("without a in layer 1"))  # type: ignore[arg-type]
    assert {file.name for file in out.iterdir()} == {"answers.sqlite"}
    kept = stored(out)
    with pytest.raises(KeyboardInterrupt):  # another metric: answers of its own, none of those that are there
        weightsmith.ablate(path, out, **expected, log=stop_at("whole"))  # type: ignore[arg-type]
    assert kept.items() < stored(out).items()
    weightsmith.ablate(path, out, **expected, metric="perplexity")  # type: ignore[arg-type]
    assert len(stored(out)) == len(kept) + 1 + 7 - 3  # "whole" by the other metric, and what was missing of seven
    weightsmith.ablate(path, tmp_path / "whole", **expected, metric="perplexity")  # type: ignore[arg-type]
    assert (out / "ablation.csv").read_bytes() == (tmp_path / "whole" / "ablation.csv").read_bytes()
    table, kept = (out / "ablation.csv").read_bytes(), stored(out)
    weightsmith.ablate(path, out, **expected, metric="perplexity")  # type: ignore[arg-type]
    assert (out / "ablation.csv").read_bytes() == table and stored(out) == kept  # it was done already
    with pytest.raises(OutputError, match="exists and is not empty"):
        weightsmith.ablate(path, out, **expected | {"blocks": 1}, metric="perplexity")  # type: ignore[arg-type]
    assert (out / "ablation.csv").read_bytes() == table and stored(out) == kept


def stored(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "answers.sqlite") as store:
        return dict(store.execute("SELECT request, answer FROM answers"))


def test_methods_without_weights(chat_models: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 2)
    content = {"merge_method": "slerp", "base_model": str(chat_models / "base"), "parameters": {"t": 0.5}}
    content["models"] = [{"model": str(chat_models / n)} for n in ("base", "a")]  # type: ignore[assignment]
    (tmp_path / "slerp.yml").write_text(json.dumps(content))
    with pytest.raises(SearchError, match="slerp has no weights"):
        weightsmith.ablate(tmp_path / "slerp.yml", tmp_path / "out", texts=[str(tmp_path / "text.txt")])
    with pytest.raises(SearchError, match="nothing to measure"):
        weightsmith.ablate(tmp_path / "slerp.yml", tmp_path / "out")
