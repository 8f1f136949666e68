"""`weightsmith evaluate --suite` and `--tasks` as a person runs them, and the statistics behind their words."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

import weightsmith
from tests.conftest import stderr_lines, weightsmith_process
from weightsmith.evaluation.harness.suite_tasks import load_tasks
from weightsmith.evaluation.harness.values import Value
from weightsmith.evaluation.paired_tests import compare, compare_averages
from weightsmith.evaluation.run_benchmarks import run_benchmarks
from weightsmith.evaluation.settings import BenchmarkSettings
from weightsmith.evaluation.tasks.suite import SuiteEntry, load_suite, suite_names, suite_of_tasks
from weightsmith.report.benchmark_tables import side_by_side


def value(answers: list[float], factor: float = 100.0) -> Value:
    benchmark = {("task", number): answer for number, answer in enumerate(answers)}
    return Value(
        SuiteEntry(task="task"),
        "acc",
        "none",
        factor * sum(answers) / len(answers),
        None,
        benchmark,
        True,
        None,
        factor,
    )


def test_right_and_wrong_answers_are_compared_by_mcnemar() -> None:
    ours, reference = value([1.0] * 40 + [0.0] * 60), value([1.0] * 30 + [0.0] * 10 + [0.0] * 58 + [1.0] * 2)
    benchmark = compare(ours, reference, "base")
    assert benchmark.test == "McNemar" and benchmark.p == pytest.approx(
        2 * (1 + 12 + 66) / 2**12
    )  # 10 against 2, exact
    assert (
        benchmark.difference == pytest.approx(8)
        and benchmark.low < 8 < benchmark.high
        and benchmark.verdict == "better"
    )
    assert compare(reference, ours, "ours").verdict == "worse"
    assert compare(ours, ours, "self").verdict == "no difference seen with 100 questions"


def test_other_values_are_compared_by_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(200, generator=generator).double()
    ours, reference = value((low + 0.05).tolist()), value(low.tolist())
    benchmark = compare(ours, reference, "base")
    assert benchmark.test == "paired bootstrap" and benchmark.verdict == "better"
    assert benchmark.low == pytest.approx(5) and benchmark.high == pytest.approx(5)  # each question differs by as much
    noise = value((low + 0.2 * torch.randn(200, generator=generator).double()).tolist())
    assert compare(noise, reference, "base").p > 0.05
    both = compare_averages([ours, noise], [reference, reference], [0.5, 0.5], "base")
    assert both.difference == pytest.approx((5 + noise.value - reference.value) / 2) and both.questions == 400


def test_suites_name_tasks_that_lm_eval_has() -> None:
    from weightsmith.evaluation.harness.quiet_harness import quiet_harness
    from weightsmith.evaluation.harness.suite_tasks import _manager

    quiet_harness()
    known = _manager(()).task_index
    assert suite_names() == ["eq-bench", "nous", "openllm", "openllm2", "quick"]
    for name in suite_names():
        assert [entry.task for entry in load_suite(name).entries if entry.task not in known] == []
    nous = load_suite("nous")
    assert [len(part.tasks) for part in nous.parts] == [8, 7, 1, 18]


@pytest.fixture(scope="module")
def finished(chat_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    recipe = root / "recipe.yml"
    models = [{"model": str(chat_models / name), "parameters": {"weight": 0.5}} for name in "ab"]
    base = {"base_model": str(chat_models / "base"), "merge_method": "task_arithmetic", "dtype": "float32"}
    recipe.write_text(json.dumps(base | {"models": models}))
    done = weightsmith_process(
        "evaluate",
        f"base={chat_models / 'base'}",
        f"a={chat_models / 'a'}",
        f"b={chat_models / 'b'}",
        f"merged={recipe}",
        "--suite",
        "quick",
        "--limit",
        6,
        "--precision",
        "float32",
        "-o",
        root / "out",
    )
    assert done.returncode == 0, done.stderr
    (root / "stdout").write_text(done.stdout)
    return root


def test_what_a_benchmark_leaves(finished: Path) -> None:
    out, messages = finished / "out", (finished / "stdout").read_text()
    assert "36 questions of 360, the same for all models" in messages
    assert "| merged | quick (average) | " in messages and "(best parent)" in messages and "| against " in messages
    assert "quick_facts" in (out / "benchmark.md").read_text()
    rows = list(csv.DictReader((out / "benchmark.csv").open()))
    assert len(rows) == 6 * 4 and {row["model"] for row in rows} == {"base", "a", "b", "merged"}
    results = json.loads((out / "merged" / "results_quick.json").read_text())
    assert results["results"]["quick_facts"]["acc,none"] == pytest.approx(float(rows[3]["value"]) / 100)
    assert {"results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"} <= set(results)
    assert len((out / "a" / "samples_quick_quick_facts.jsonl").read_text().splitlines()) == 6
    card = YAML(typ="safe").load(out / "merged" / "model-index.yml")["model-index"][0]
    assert card["results"][0]["metrics"][0]["type"] == "acc" and len(card["results"]) == 6


def test_a_merge_in_memory_scores_as_the_written_one(finished: Path) -> None:
    weightsmith.merge(finished / "recipe.yml", finished / "merged")
    models = {"memory": str(finished / "recipe.yml"), "disk": str(finished / "merged")}
    settings = BenchmarkSettings(limit=4, precision="float32")
    (benchmark,) = run_benchmarks(models, finished / "both", suites=["quick"], settings=settings)
    samples = [model.harness["samples"] for model in benchmark.models]
    assert samples[0] == samples[1]
    assert [model.computed for model in benchmark.models] == [
        benchmark.models[0].computed
    ] * 2  # not by name: by content


def test_nothing_is_asked_twice(finished: Path, chat_models: Path) -> None:
    settings = BenchmarkSettings(limit=7, precision="float32")
    models = {"again": str(chat_models / "a")}
    (benchmark,) = run_benchmarks(models, finished / "out", suites=["quick"], settings=settings)
    six = [benchmark.models[0].harness["samples"][task][:6] for task in benchmark.questions]
    assert 6 <= benchmark.models[0].computed < benchmark.models[0].reused / 3 and len(six) == 6
    other = Path(shutil.copytree(chat_models / "a", finished / "renamed"))
    (same,) = run_benchmarks({"copy": str(other)}, finished / "out", suites=["quick"], settings=settings)
    assert same.models[0].computed == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.more)])
def test_a_run_that_was_stopped_goes_on(how: signal.Signals, chat_models: Path, tmp_path: Path) -> None:
    weights = (chat_models / "a" / "model.safetensors").stat().st_size
    memory = str(weights + 30_000_000)  # so little that it takes some seconds
    models = [f"{name}={chat_models / name}" for name in ("a", "b", "c", "base")]
    command = ["evaluate", *models, "--suite", "quick", "--precision", "float32"]
    command += ["--memory", memory, "-o", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "weightsmith", *command], stderr=subprocess.PIPE)
    store = tmp_path / "out" / "answers.sqlite"
    while _answers(store) <= 3:
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)
    process.send_signal(how)
    _, log = process.communicate()
    if how == signal.SIGINT:
        assert process.returncode == 130 and b"resume it with the same command" in log
    kept = _answers(store)
    done = weightsmith_process(*command)
    assert done.returncode == 0, done.stderr
    known = re.findall(r"requests answered, (\d+) reused", done.stderr)
    assert kept > 3 and len(known) == 4 and sum(map(int, known)) == kept


def _answers(store: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(store) as db:
            return db.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_a_budget_takes_the_same_share_of_each_task(chat_models: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    settings = BenchmarkSettings(budget=3.0, precision="float32")
    (benchmark,) = run_benchmarks(
        {"a": str(chat_models / "a")}, tmp_path, suites=["quick"], settings=settings, log=messages.append
    )
    counts = [asked for asked, _ in benchmark.questions.values()]
    assert all(4 <= count <= 60 for count in counts) and len(set(counts)) == 1
    assert any("budget" in line for line in messages)


_OWN_TASK = """
task: own_text
dataset_path: json
dataset_kwargs: {data_files: {test: TEXT}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list: [{metric: word_perplexity}]
"""


def test_a_perplexity_of_ones_own_does_not_enter_the_average(chat_models: Path, tmp_path: Path) -> None:
    pages = ["The sea is calm tonight, the tide is full.", "A tree grows in the yard.", "It rained all night long."]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in pages))
    (tmp_path / "own.yaml").write_text(_OWN_TASK.replace("TEXT", str(tmp_path / "text.jsonl")))
    named = {"base": str(chat_models / "base"), "a": str(chat_models / "a")}
    settings = BenchmarkSettings(limit=3, precision="float32", include=(tmp_path,))
    (benchmark,) = run_benchmarks(named, tmp_path / "out", tasks=["own_text", "quick_facts"], settings=settings)
    of = {entry.task: benchmark.model("a").values[entry] for entry in benchmark.suite.entries}
    assert of["own_text"].value > 100 and not of["own_text"].averages and of["own_text"].error is None
    assert benchmark.model("a").average(benchmark.suite) == of["quick_facts"].value
    text, perplexity = side_by_side(benchmark), benchmark.suite.parts[0]
    assert "| own_text " in text and "average" not in text  # of a single percentage
    lower = (
        benchmark.model("a").values[perplexity.tasks[0]].value
        < benchmark.model("base").values[perplexity.tasks[0]].value
    )
    comparison = benchmark.compare("a", "base", perplexity)
    assert comparison.verdict in ("better" if lower else "worse", "no difference seen with 3 questions")


def test_data_in_linked_folders(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    row = {"query": "2+2?", "choices": ["(A)3", "(B)4"], "gold": [1]}
    (tmp_path / "elsewhere" / "aqua-rat.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "agieval").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "data")  # a circle
    tasks = load_tasks(suite_of_tasks(["agieval_aqua_rat"]), data=tmp_path / "data")
    assert [doc["query"] for doc in tasks.tasks["agieval_aqua_rat"].eval_docs] == ["2+2?"]


BAD = {
    "an unknown suite": (["--suite", "nouss"], "did you mean 'nous'"),
    "an unknown task": (["--tasks", "quick_fact"], "did you mean 'quick_facts'"),
    "no data": (["--tasks", "hellaswag", "--data", "."], "no file for the dataset Rowan/hellaswag"),
    "wrong fields": (["--tasks", "agieval_aqua_rat", "--data", "."], "'query' is undefined (its fields: question)"),
    "no folder of tasks": (["--suite", "quick", "--include", "nowhere"], "nowhere: no such folder"),
    "a base that is none": (["--suite", "quick", "--base", "x"], "'x' is not one of the models"),
    "a label that is none": (["--suite", "quick", "--parent", "x"], "'x' is not one of the models"),
    "a time that is none": (["--suite", "quick", "--budget", "soon"], "--budget 'soon': not a time"),
    "too little memory": (["--suite", "quick", "--memory", "1MB"], "more than --memory allows"),
}


SLOW = ("no data", "wrong fields")


@pytest.mark.parametrize("case", [c if c not in SLOW else pytest.param(c, marks=pytest.mark.more) for c in BAD])
def test_bad_input_is_one_message(case: str, chat_models: Path, tmp_path: Path) -> None:
    options, message = BAD[case]
    (tmp_path / "agieval").mkdir()
    (tmp_path / "agieval" / "aqua-rat.jsonl").write_text('{"question": "x"}\n')
    done = weightsmith_process("evaluate", chat_models / "a", *options, "-o", tmp_path / "out", cwd=tmp_path)
    lines = [line for line in stderr_lines(done) if line != "loading tasks"]
    assert done.returncode == 2 and len(lines) == 1 and message in lines[0], done.stderr


def test_a_model_without_tokenizer_is_found_before_the_others_are_asked(
    chat_models: Path, models: Path, tmp_path: Path
) -> None:
    done = weightsmith_process(
        "evaluate", chat_models / "a", f"bare={models / 'a'}", "--suite", "quick", "-o", tmp_path / "out"
    )
    assert done.returncode == 2 and "tokenizer" in done.stderr and len(stderr_lines(done)) == 1, done.stderr
    assert not (tmp_path / "out").exists()


def test_chat_asks_for_a_template(chat_models: Path, tmp_path: Path) -> None:
    plain = Path(shutil.copytree(chat_models / "a", tmp_path / "plain"))
    config = json.loads((plain / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(config))
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    done = weightsmith_process(
        "evaluate", chat_models / "a", plain, "--suite", "quick", "--chat", "-o", tmp_path / "out"
    )
    assert done.returncode == 2 and "plain: has no chat template" in done.stderr and len(stderr_lines(done)) == 1
