"""The demo, end to end, on real weights: what the README promises of it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import weightsmith
from tests.conftest import DEMO_QUESTIONS, SKILLS, weightsmith_process

LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
question = [{"role": "user", "content": "Write this date as numbers: the fifth of June, nineteen sixty-eight"}]
inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=20, do_sample=False)
print(model.dtype, tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


@pytest.fixture(scope="module")
def table(demo: Path) -> dict[str, dict[str, float]]:
    """Model -> task -> percentage, or perplexity."""
    table: dict[str, dict[str, float]] = {}
    for row in csv.DictReader((demo / "evaluation" / "evaluation.csv").open()):
        table.setdefault(row["model"], {})[row["task"]] = float(row["value"])
    return table


@pytest.mark.parametrize("skill", SKILLS)
def test_each_specialist_has_learned_its_skill(skill: str, table) -> None:
    assert table["base"][skill] < 30
    assert table[skill][skill] > 85


@pytest.mark.parametrize("skill", SKILLS)
def test_the_merge_keeps_every_skill(skill: str, table) -> None:
    assert table["merged"][skill] >= table[skill][skill] - 5
    assert table["merged Q4_K_M"][skill] >= table[skill][skill] - 10


def test_general_text_is_not_forgotten(table) -> None:
    assert table["merged"]["general"] < table["base"]["general"] * 1.05


def test_the_same_run_again_has_nothing_to_do(demo: Path) -> None:
    """As `weightsmith run demo/pipeline.yml demo`, which the docs have."""
    again = weightsmith.run(demo / "pipeline.yml", demo)
    assert all(stage.reused for stage in again.stages)


def test_the_plain_average_loses_a_skill(specialists: Path, table, tmp_path: Path) -> None:
    from weightsmith.demo.run_demo import PACKAGE

    models = [{"model": str(specialists / s), "parameters": {"weight": 1.0}} for s in SKILLS]
    (tmp_path / "linear.yml").write_text(
        yaml.safe_dump({"merge_method": "linear", "models": models, "dtype": "float32"})
    )
    weightsmith.merge(tmp_path / "linear.yml", tmp_path / "average")
    result = weightsmith.evaluate(
        [tmp_path / "average"], questions=[PACKAGE / f"data/{s}.jsonl" for s in SKILLS], limit=DEMO_QUESTIONS
    )
    average = {entry.name: value.value for entry, value in result.suites[0].models[0].values.items()}
    assert max(table[s][s] - average[s] for s in SKILLS) >= 15


def test_the_folder_loads_with_no_warning(demo: Path) -> None:
    command = [sys.executable, "-W", "error::UserWarning", "-c", LOAD, str(demo / "merged")]
    import os

    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.float32 1968-06-05"
    messages = [line for line in done.stderr.splitlines() if line.strip() and "Loading weights" not in line]
    assert messages == []


def test_what_is_in_the_folder(demo: Path) -> None:
    merged = {p.name for p in (demo / "merged").iterdir()}
    assert merged == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "merge_recipe.yml",
        "checksums.json",
        "provenance.json",
        "README.md",
    }
    assert json.loads((demo / "merged" / "config.json").read_text())["dtype"] == "float32"
    assert {p.name for p in (demo / "gguf").iterdir()} == {
        "merged-f16.gguf",
        "merged-q4_k_m.gguf",
        "manifest.json",
        "Modelfile",
        "template",
        "params",
        "README.md",
    }
    assert (demo.parent / "stdout").read_text().splitlines()[0] == "## tasks"
    assert "| merged Q4_K_M " in (demo / "report.md").read_text()


def test_a_second_run_reuses_everything(demo: Path) -> None:
    before = (demo / "report.html").read_bytes()
    done = weightsmith_process("demo", demo)
    assert done.returncode == 0, done.stderr
    assert "0 of 7 stages done" in done.stdout
    assert done.stdout.splitlines()[:-1] == (demo.parent / "stdout").read_text().splitlines()[:-1]
    assert (demo / "report.html").read_bytes() == before
