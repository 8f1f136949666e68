"""Model cards of a run: what was measured is in them, and they follow what changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

import weightsmith
from tests.pipeline.test_run import done, pipeline


@pytest.fixture(scope="module")
def finished(chat_models: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    weightsmith.run(pipeline(chat_models, questions, folder), folder / "my-merge")
    return folder


def results_of(card: Path) -> list[EvalResult]:
    data = ModelCard.load(card).data
    assert data.eval_results
    return data.eval_results


def test_results_are_in_the_heads(finished: Path, questions: Path) -> None:
    out = finished / "my-merge"
    for folder, label in (("merged", "merged"), ("gguf", "small")):
        (result,) = results_of(out / folder / "README.md")
        index = yaml.safe_load((out / "evaluation" / label / "model-index.yml").read_text())
        _, (expected,) = model_index_to_eval_results(index["model-index"])
        assert (result.metric_value, result.dataset_name) == (expected.metric_value, expected.dataset_name)
        assert result.metric_type == "exact_match" and result.dataset_name == f"{questions.stem} (0-shot)"
        assert ModelCard.load(out / folder / "README.md").data.model_name == (
            "my-merge" if folder == "merged" else "my-merge-GGUF"
        )


def test_results_are_in_words(finished: Path) -> None:
    for folder in ("merged", "gguf"):
        text = (finished / "my-merge" / folder / "README.md").read_text()
        assert "## Results" in text and "against base" in text and "no difference seen with 3 questions" in text
        assert str(finished) not in text and "/tmp" not in text


def test_an_edited_card_stays(finished: Path, chat_models: Path, questions: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    out = tmp_path / "run/my-merge"
    path = pipeline(chat_models, questions, tmp_path / "run")
    (out / "merged/README.md").write_text("# Mine\n")
    said: list[str] = []
    assert "merge" not in done(weightsmith.run(path, out, log=said.append))
    assert (out / "merged/README.md").read_text() == "# Mine\n"
    assert any("was edited" in line for line in said)


def test_results_of_a_benchmark(tmp_path: Path) -> None:
    """Of the hub's own benchmarks, and only where all questions were asked."""
    from types import SimpleNamespace

    from huggingface_hub._eval_results import parse_eval_result_entries

    from weightsmith.evaluation.results.task_result import TaskResult
    from weightsmith.evaluation.tasks.suite import Part, Suite, SuiteEntry
    from weightsmith.report.hub_results import eval_results

    def evaluation(asked: int, entry: SuiteEntry, value: float, config: dict) -> SimpleNamespace:
        answers = {(entry.task, number): 1 for number in range(asked)}
        result = TaskResult(entry, "exact_match", "strict-match", value, 1.0, answers, True, None, 100.0)
        harness = {"configs": {entry.task: config}, "n-shot": {entry.task: 5}}
        model = SimpleNamespace(label="m", values={entry: result}, harness=harness, precision="bfloat16")
        suite = Suite(name="s", about="", source="", parts=(Part(name="p", tasks=(entry,)),))
        return SimpleNamespace(
            suites=[SimpleNamespace(suite=suite, questions={entry.task: (asked, 4)}, model=lambda label: model)]
        )

    gsm8k = SuiteEntry(task="gsm8k")
    files = eval_results(evaluation(4, gsm8k, 25.0, {"dataset_path": "openai/gsm8k", "dataset_name": "main"}), "m")  # type: ignore[arg-type]
    ((name, entries),) = files.items()
    assert name == "gsm8k-gsm8k.yaml"
    (entry,) = parse_eval_result_entries(entries)
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 25.0)
    assert entry.notes and entry.notes.startswith("5-shot, exact_match (strict-match)")
    assert not eval_results(evaluation(3, gsm8k, 25.0, {"dataset_path": "openai/gsm8k"}), "m")  # type: ignore[arg-type]
    assert not eval_results(evaluation(4, gsm8k, 25.0, {"dataset_path": "cais/mmlu"}), "m")  # type: ignore[arg-type]
    scaled = SuiteEntry(task="leaderboard_mmlu_pro", baseline=0.1)
    found = eval_results(evaluation(4, scaled, 50.0, {"dataset_path": "TIGER-Lab/MMLU-Pro"}), "m")  # type: ignore[arg-type]
    assert [entry["value"] for entries in found.values() for entry in entries] == [55.0]  # 10 + 50 * 0.9
