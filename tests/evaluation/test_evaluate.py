"""`weightsmith evaluate` as a person runs it, and the statistics behind its words."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
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
from weightsmith.errors import EvaluationError, RecipeError
from weightsmith.evaluation.harness.suite_tasks import load_tasks
from weightsmith.evaluation.results.evaluation import Evaluation
from weightsmith.evaluation.results.paired_tests import Comparison, compare, compare_averages, corrected, holm
from weightsmith.evaluation.results.suite_result import ModelResult, SuiteResult
from weightsmith.evaluation.results.task_result import TaskResult, result_of
from weightsmith.evaluation.settings import EvaluationSettings
from weightsmith.evaluation.task import Sample
from weightsmith.evaluation.tasks.suite import SuiteEntry, load_suite, suite_names, suite_of


def value(answers: list[float], factor: float | None = 100.0, sizes: float = 1.0) -> TaskResult:
    mean = sum(answers) / len(answers) / sizes
    published = math.exp(mean) if factor is None else factor * mean
    pairs = {("task", number): (answer, sizes) for number, answer in enumerate(answers)}
    return TaskResult(SuiteEntry(task="task"), "acc", "none", published, None, pairs, factor is not None, None, factor)


def verdict(comparison: Comparison) -> str:
    """Of one comparison by itself."""
    (alone,) = corrected([comparison])
    assert alone.p_holm == comparison.p
    return alone.verdict


def test_right_and_wrong_answers_are_compared_by_mcnemar() -> None:
    ours, reference = value([1.0] * 40 + [0.0] * 60), value([1.0] * 30 + [0.0] * 10 + [0.0] * 58 + [1.0] * 2)
    comparison = compare(ours, reference, "ours", "base")
    assert comparison.test == "McNemar"
    assert comparison.p == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # 10 against 2, exact
    assert comparison.difference == pytest.approx(8) and comparison.low < 8 < comparison.high
    assert verdict(comparison) == "better"
    assert verdict(compare(reference, ours, "base", "ours")) == "worse"
    assert verdict(compare(ours, ours, "ours", "self")) == "no difference seen with 100 questions"


def test_other_values_are_compared_by_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(200, generator=generator).double()
    ours, reference = value((low + 0.05).tolist()), value(low.tolist())
    comparison = compare(ours, reference, "ours", "base")
    assert comparison.test == "paired bootstrap" and verdict(comparison) == "better"
    assert comparison.low == pytest.approx(5) and comparison.high == pytest.approx(5)  # each question differs by that
    noise = value((low + 0.2 * torch.randn(200, generator=generator).double()).tolist())
    assert compare(noise, reference, "noise", "base").p > 0.05
    both = compare_averages([ours, noise], [reference, reference], [0.5, 0.5], "ours", "base", "average")
    assert both.difference == pytest.approx((5 + noise.value - reference.value) / 2) and both.questions == 400


def test_perplexities_are_compared_as_perplexities() -> None:
    """Windows of 10 tokens at 2 and at 2.1 nats per token each: e^2 against e^2.1, in every draw."""
    ours, reference = value([20.0] * 8, None, 10.0), value([21.0] * 8, None, 10.0)
    comparison = compare(ours, reference, "ours", "base")
    assert comparison.difference == pytest.approx(math.exp(2) - math.exp(2.1)) == comparison.low == comparison.high
    assert comparison.p == 2 / 2**8  # that often, eight coins all fall on one side
    assert verdict(comparison) == "better"
    with pytest.raises(ValueError, match="cut the text into different tokens"):
        compare(ours, dataclasses.replace(reference, units_digest="other"), "ours", "base")


def test_many_comparisons_are_corrected() -> None:
    """Holm by hand: 0.01 * 3, 0.03 * 2, and 0.04, which may not be less than what comes before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    ours, reference = value([1.0] * 40 + [0.0] * 60), value([1.0] * 30 + [0.0] * 10 + [0.0] * 58 + [1.0] * 2)
    comparison = compare(ours, reference, "ours", "base")  # p = 0.039
    assert [c.verdict for c in corrected([comparison, comparison])] == ["no difference seen with 100 questions"] * 2


def test_the_standard_error_of_a_ratio() -> None:
    """Of right and wrong answers that of lm-evaluation-harness, sqrt(p (1 - p) / (n - 1)); of windows, the delta
    method's."""
    answers = [1.0, 0.0, 0.0, 1.0, 1.0]
    samples = [Sample(number, (answer, 1.0)) for number, answer in enumerate(answers)]
    share = result_of(SuiteEntry(questions="q.jsonl"), _Task(100.0), samples, "questions", "")  # type: ignore[arg-type]
    assert share.value == pytest.approx(60) and share.error == pytest.approx(100 * math.sqrt(0.6 * 0.4 / 4))
    windows = [Sample(0, (10.0, 5.0)), Sample(1, (10.0, 10.0))]  # 20 nats in 15 tokens; residuals 10/3 and -10/3
    text = result_of(SuiteEntry(text="t.txt"), _Task(None), windows, "windows", "")  # type: ignore[arg-type]
    assert text.value == pytest.approx(math.exp(4 / 3))
    assert text.error == pytest.approx(math.exp(4 / 3) * math.sqrt(2 * 200 / 9) / 15)


def test_texts_cut_by_other_tokenizers_are_shown_and_not_compared() -> None:
    ours, theirs = value([20.0] * 8, None, 10.0), value([21.0] * 8, None, 10.0)
    other = dataclasses.replace(theirs, units_digest="other")
    suite = suite_of([ours.entry])
    models = [
        ModelResult(label, "", "transformers", "float32", {ours.entry: of_text}, {}, {}, 0, 0, 0.0)
        for label, of_text in (("base", ours), ("same", theirs), ("other", other))
    ]
    result = SuiteResult(suite, tuple(models), {"task": (8, 8)})
    evaluation = Evaluation((result,), EvaluationSettings(), "base", ())
    assert [c.label for c in evaluation.comparisons] == ["same"] and evaluation.compare("other", "base") == ()
    page = evaluation.to_markdown()
    assert "Where tokenizers differ, perplexities are not compared" in page and "other" in page
    assert evaluation.scores["other"] == {"task": theirs.value}


def test_questions_and_texts_need_no_lm_eval(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfor name in ('lm_eval', 'datasets', 'optuna', 'matplotlib'):\n    sys.modules[name] = None\n"
        "from weightsmith.commands.app import main\nmain()"
    )
    command = [sys.executable, "-c", script, "evaluate", chat_models / "base", chat_models / "a", "--questions"]
    done = subprocess.run([*command, questions, "-o", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a" / "model-index.yml").exists()


@dataclasses.dataclass
class _Task:
    factor: float | None
    metric: str = "metric"

    @property
    def higher_is_better(self) -> bool:
        return self.factor is not None


@pytest.mark.more
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
    assert "36 questions of 360, the same for all models" in messages and "Holm's correction for all 4" in messages
    assert "| merged | quick (average) | " in messages and "(best parent)" in messages and "| against " in messages
    assert (out / "evaluation.md").read_text().strip() == messages.strip() and "quick_facts" in messages
    rows = list(csv.DictReader((out / "evaluation.csv").open()))
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
    result = weightsmith.evaluate(models, finished / "both", suites=["quick"], limit=4, precision="float32")
    memory, disk = result.suites[0].models
    assert memory.harness["samples"] == disk.harness["samples"]
    assert memory.computed == disk.computed  # not by name: by content


def test_nothing_is_asked_twice(finished: Path, chat_models: Path) -> None:
    models = {"again": str(chat_models / "a")}
    (suite,) = weightsmith.evaluate(models, finished / "out", suites=["quick"], limit=7, precision="float32").suites
    six = [suite.models[0].harness["samples"][task][:6] for task in suite.questions]
    assert 6 <= suite.models[0].computed < suite.models[0].reused / 3 and len(six) == 6
    other = Path(shutil.copytree(chat_models / "a", finished / "renamed"))
    copy = {"copy": str(other)}
    (same,) = weightsmith.evaluate(copy, finished / "out", suites=["quick"], limit=7, precision="float32").suites
    assert same.models[0].computed == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.more)])
def test_a_run_that_was_stopped_goes_on(
    how: signal.Signals, chat_models: Path, questions: Path, tmp_path: Path
) -> None:
    weights = (chat_models / "a" / "model.safetensors").stat().st_size
    memory = str(weights + 30_000_000)  # so little that it takes some seconds
    (tmp_path / "sea.txt").write_text("The sea is calm tonight, the tide is full. " * 40)
    models = [f"{name}={chat_models / name}" for name in "ab"]
    command = ["evaluate", *models, "--suite", "quick", "--limit", "25", "--questions", str(questions), "--text"]
    command += [str(tmp_path / "sea.txt"), "--precision", "float32", "--memory", memory, "-o", str(tmp_path / "out")]
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
    whole = weightsmith_process(*command[:-1], str(tmp_path / "whole"))
    assert whole.stdout == done.stdout


def _answers(store: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(store) as db:
            return db.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_a_budget_takes_the_same_share_of_each_task(chat_models: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    named = {"a": str(chat_models / "a")}
    result = weightsmith.evaluate(
        named, tmp_path, suites=["quick"], budget=3.0, precision="float32", log=messages.append
    )
    counts = [asked for asked, _ in result.suites[0].questions.values()]
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
    options = {"limit": 3, "precision": "float32", "include": [tmp_path]}
    result = weightsmith.evaluate(named, tmp_path / "out", tasks=["own_text", "quick_facts"], **options)  # type: ignore[arg-type]
    (suite,) = result.suites
    base, other = ({entry.task: value for entry, value in model.values.items()} for model in suite.models)
    assert other["own_text"].value > 100 and not other["own_text"].averages and other["own_text"].error is None
    assert suite.model("a").average(suite.suite) == other["quick_facts"].value
    text = result.to_markdown()
    assert "| own_text " in text and "average" not in text  # of a single percentage
    comparison = result.compare("a", "base")[0]
    lower = other["own_text"].value < base["own_text"].value
    assert comparison.on == "own_text"
    assert comparison.verdict in ("better" if lower else "worse", "no difference seen with 3 questions")


def test_everything_goes_into_one_folder(
    chat_models: Path, gguf_file: Path, questions: Path, finished: Path, tmp_path: Path
) -> None:
    """A base, a fine-tune, a recipe merged in memory and a GGUF file on a suite, two tasks, questions and a text."""
    (tmp_path / "sea.txt").write_text("The sea is calm tonight, the tide is full, the moon lies fair. " * 40)
    models = {
        "base": chat_models / "base",
        "a": chat_models / "a",
        "recipe": finished / "recipe.yml",
        "gguf": gguf_file,
    }
    command = ["evaluate", *(f"{label}={path}" for label, path in models.items()), "--suite", "quick", "--tasks"]
    command += ["quick_facts,quick_grammar", "--questions", str(questions), "--text", str(tmp_path / "sea.txt")]
    command += ["--limit", "3", "--precision", "float32", "-o", str(tmp_path / "out")]
    first = weightsmith_process(*command)
    assert first.returncode == 0, first.stderr
    assert "9 questions of" in first.stdout and "and 2 windows," in first.stdout and "sea (perplexity)" in first.stdout
    again = weightsmith_process(*command)
    assert again.stdout == first.stdout
    assert re.findall(r"(\d+) requests answered", again.stderr) == ["0"] * 8
    log: list[str] = []
    result = weightsmith.evaluate(
        models,
        tmp_path / "out",
        suites=["quick"],
        tasks=[
            "quick_facts",
            "quick_grammar",
            weightsmith.Questions(questions),
            weightsmith.Text(tmp_path / "sea.txt"),
        ],
        limit=3,
        precision="float32",
        log=log.append,
    )
    assert not any("merging in memory" in line for line in log)  # nothing is asked, so nothing is loaded
    assert result.to_markdown().strip() == first.stdout.strip()
    lines = [line for line in first.stdout.splitlines() if line.startswith("| recipe ") and "| base " in line]
    assert len(lines) == 1 + 5  # the suite, the four tasks and their average
    for line, comparison in zip(lines, result.compare("recipe", "base"), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:] == [
            comparison.on,
            "base",
            f"{comparison.difference:+.2f}",
            f"{comparison.low:+.2f} to {comparison.high:+.2f}",
            *(f"{p:.3f}" if p >= 0.001 else "<0.001" for p in (comparison.p, comparison.p_holm)),
            comparison.verdict,
        ]
    everything = result.compare("gguf", "a")  # a pair that the table does not have
    assert {c.on for c in everything} >= {"capitals", "quick_facts"} and all(c.p <= c.p_holm for c in everything)
    with pytest.raises(EvaluationError, match="'b' is not one of the models"):
        result.compare("a", "b")


def test_a_suite_of_ones_own_may_hold_questions_and_texts(chat_models: Path, questions: Path, tmp_path: Path) -> None:
    shutil.copy(questions, tmp_path / "capitals.jsonl")
    (tmp_path / "sea.txt").write_text("The sea is calm tonight. " * 20)
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nabout: Capitals and the sea\nsource: us\nparts:\n"
        "- {name: all, tasks: [{questions: capitals.jsonl}, {text: sea.txt, alias: the sea}]}\n"
    )
    result = weightsmith.evaluate([chat_models / "a"], suites=[str(tmp_path / "mine.yaml")])
    assert [entry.name for entry in result.suites[0].suite.entries] == ["capitals", "the sea"]
    assert "| the sea (perplexity) |" in result.to_markdown()
    bad = (tmp_path / "mine.yaml").read_text().replace("alias: the sea", "fewshot: 3")
    (tmp_path / "mine.yaml").write_text(bad)
    with pytest.raises(RecipeError, match=r"mine.yaml:5: .*'fewshot' belongs to a 'task'"):
        weightsmith.evaluate([chat_models / "a"], suites=[str(tmp_path / "mine.yaml")])
    (tmp_path / "mine.yaml").write_text(bad.replace("fewshot: 3", "metric: acc"))
    with pytest.raises(RecipeError, match="the metric of a text is perplexity"):
        weightsmith.evaluate([chat_models / "a"], suites=[str(tmp_path / "mine.yaml")])


def test_data_in_linked_folders(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    row = {"query": "2+2?", "choices": ["(A)3", "(B)4"], "gold": [1]}
    (tmp_path / "elsewhere" / "aqua-rat.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "agieval").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "data")  # a circle
    tasks = load_tasks(suite_of([SuiteEntry(task="agieval_aqua_rat")]), data=tmp_path / "data")
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
    "too little memory": (["--suite", "quick", "--memory", "100kB"], "more than --memory allows"),
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
