"""Searches over tiny models: real merges in memory, real answers, Optuna's storage."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from safetensors.torch import load_file, save_file

import weightsmith
from tests.browser import needs_chromium, report_seen, shown
from tests.conftest import weightsmith_process
from weightsmith.errors import SearchError
from weightsmith.files.work_folder import work_folder
from weightsmith.recipe_search.objectives import is_finite
from weightsmith.recipe_search.report.search_report import pareto_front
from weightsmith.recipe_search.trials import study
from weightsmith.recipe_search.trials.run_trial import Setup, TrialJob, run_trial

MORE = pytest.mark.more
TEXT = " ".join(
    f"Line {n}: the river rises in the hills north of town {n * 7 % 13} and runs to the sea." for n in range(24)
)


@pytest.fixture(scope="module")
def home(chat_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    (folder / "text.txt").write_text(TEXT)
    rows = [{"prompt": f"What is {n} and {n}?", "target": str(2 * n)} for n in range(12)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def search_file(home: Path, models: Path, name: str, **settings: object) -> Path:
    own = "parameters: {weight: {uniform: [0.1, 1.2]}, density: {uniform: [0.2, 1.0]}}"
    lines = [
        "recipe:",
        "  merge_method: {choice: [ties, task_arithmetic]}",
        f"  base_model: {models / 'base'}",
        "  models:",
        f"    - {{model: {models / 'a'}, {own}}}",
        f"    - {{model: {models / 'b'}, {own}}}",
        "  parameters: {normalize: {choice: [true, false]}}",
        "  dtype: float32",
        "objective:",
        "  - {perplexity: text.txt}",
        "  - {questions: sums.jsonl, weight: 0.5}",
    ]
    lines += [f"{key}: {json.dumps(value)}" for key, value in ({"trials": 8} | settings).items()]
    path = home / f"{name}.yml"
    path.write_text("\n".join(lines) + "\n")
    return path


def rows(out: Path) -> list[dict[str, str]]:
    search_result = list(csv.DictReader((out / "trials.csv").open()))
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in search_result]


@pytest.fixture(scope="module")
def done(home: Path, chat_models: Path) -> Path:
    """A search by the command line."""
    path = search_file(home, chat_models, "whole")
    result = weightsmith_process("search", path, home / "out", "--precision", "float32")
    assert result.returncode == 0, result.stderr
    assert "the winner is" in result.stdout and "best.yml" in result.stdout
    return home / "out"


def test_what_it_leaves_behind(done: Path) -> None:
    search_result = rows(done)
    assert len(search_result) == 8 and search_result[0]["default"] == "ties, weight 0.5, density 0.5"
    summary = json.loads((done / "summary.json").read_text())
    assert [one["label"] for one in summary["candidates"]][-3:] == ["base", "a", "b"]
    complete = [float(row["score"]) for row in search_result if row["state"] == "complete"]
    defaults = [float(row["score"]) for row in search_result if row["default"] and row["state"] == "complete"]
    assert summary["best"]["score"] == max(complete) >= max(defaults)
    page = (done / "report.html").read_text()
    assert "<svg" in page and "held-out" in page and "src=" not in page
    assert "Holm&#39;s correction for all" in page and page.count("no difference seen with") >= 1


@needs_chromium
def test_the_report_in_a_browser(done: Path, tmp_path: Path) -> None:
    dom, colours = shown(done / "report.html", tmp_path, 4000)
    headings = re.findall("<h2>(.*?)</h2>", dom)
    assert [h.split()[0] for h in headings] == [
        "On",
        "Scores:",
        "Recipe",
        "Best",
        "Which",
        "Score",
        "Parameters",
        "text",
        "Pareto",
        "Time",
    ]
    assert dom.count("<svg") == 6 and colours > 20
    report_seen(done / "report.html", "search")


def test_the_report_names_no_folder(done: Path, chat_models: Path) -> None:
    page = (done / "report.html").read_text()
    assert str(chat_models) not in page and str(done.parent) not in page and "model: a" in page


def test_the_winner_merged_scores_the_same(done: Path, home: Path, chat_models: Path, tmp_path: Path) -> None:
    weightsmith.merge(done / "best.yml", tmp_path / "merged")
    path = search_file(home, chat_models, "whole")
    setup = Setup(path, path.read_text(), Path.cwd(), tmp_path, len(os.sched_getaffinity(0)), "float32")
    tree = {"merge_method": "passthrough", "models": [{"model": str(tmp_path / "merged")}]}
    ours = run_trial(setup, TrialJob(tree))
    summary = json.loads((done / "summary.json").read_text())
    from weightsmith.recipe_search.objectives import utility
    from weightsmith.recipe_search.trials.run_trial import worker_of

    assert utility(worker_of(setup).objectives, ours.answers) == summary["best"]["score"]


def kill_at(line_start: str, *command: object) -> None:
    """Runs it until it says that."""
    words = [sys.executable, "-m", "weightsmith", *map(str, command)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if line.startswith(line_start):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL


def test_same_seed_same_trials_also_when_killed(done: Path, home: Path, chat_models: Path, tmp_path: Path) -> None:
    path = search_file(home, chat_models, "whole")
    command = ["search", path, tmp_path / "out", "--precision", "float32"]
    kill_at("4:", *command)
    assert not (tmp_path / "out" / "best.yml").exists()
    refused = weightsmith_process(*command)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    with pytest.raises(SearchError, match="was made with another `seed`"):
        weightsmith.search(
            search_file(home, chat_models, "other", seed=1), tmp_path / "out", precision="float32", resume=True
        )
    kept = (home / "sums.jsonl").read_bytes()
    (home / "sums.jsonl").write_bytes(kept.replace(b"What", b"How much"))
    with pytest.raises(SearchError, match=r"was made with another `sums.jsonl`"):
        weightsmith.search(path, tmp_path / "out", precision="float32", resume=True)
    (home / "sums.jsonl").write_bytes(kept)
    again = weightsmith_process(*command, "--resume")
    assert again.returncode == 0, again.stderr
    assert rows(tmp_path / "out") == rows(done)
    assert (tmp_path / "out" / "best.yml").read_text() == (done / "best.yml").read_text()


def stop_at(line_start: str) -> Callable[[str], None]:
    """Ctrl-C when that is said."""

    def log(line: str) -> None:
        if line.startswith(line_start):
            raise KeyboardInterrupt

    return log


def test_what_was_held_out_is_asked_once(done: Path, home: Path, tmp_path: Path) -> None:
    """Killed while the last table was made, a search goes on with the model it was at; what it wrote is discarded with
    it."""
    out = Path(shutil.copytree(done, tmp_path / "out"))
    with sqlite3.connect(out / "answers.sqlite") as store:
        stored = store.execute("SELECT request, answer FROM answers").fetchall()
        lost, kept = stored[::2], stored[1::2]
        store.executemany("DELETE FROM answers WHERE request = ?", [[request] for request, _ in lost])
        for request, answer in kept:  # all right: no model is, so it shows whether it is asked again
            text, sums = json.loads(answer)
            changed = json.dumps([text, {number: [1.0, 1.0] for number in sums}])
            store.execute("UPDATE answers SET answer = ? WHERE request = ?", [changed, request])
    summary = weightsmith.search(home / "whole.yml", out, precision="float32", resume=True)
    winner, *_, last = summary.held_out.labels
    comparisons = summary.held_out.compare(last, winner)
    assert [c.on for c in comparisons] == [objective.name for objective in summary.objectives]
    assert summary.best.recipe.method.name in ("ties", "task_arithmetic")
    whole, ours = (json.loads((folder / "summary.json").read_text())["candidates"] for folder in (done, out))
    scored = [(one["held_out"]["sums"], one["search"]["sums"]) for one in ours]
    before = [(one["held_out"]["sums"], one["search"]["sums"]) for one in whole]
    assert 0 < sum(value == 100.0 for pair in scored for value in pair) <= len(kept)
    assert all(new in (old, 100.0) for a, b in zip(scored, before, strict=True) for new, old in zip(a, b, strict=True))
    with pytest.raises(KeyboardInterrupt):
        weightsmith.search(home / "whole.yml", out, precision="float32", force=True, log=stop_at("0:"))
    assert {path.name for path in out.iterdir()} == {"study.db"}


def test_more_of_a_search(done: Path, home: Path, chat_models: Path, tmp_path: Path) -> None:
    """A finished one goes on; the best two are merged."""
    out = Path(shutil.copytree(done, tmp_path / "out"))
    command = [
        "search",
        home / "whole.yml",
        out,
        "--precision",
        "float32",
        "--resume",
        "--trials",
        9,
        "--export-top",
        2,
    ]
    result = weightsmith_process(*command)
    assert result.returncode == 0, result.stderr
    assert rows(out)[:8] == rows(done) and len(rows(out)) == 9 and "merged: top-1, top-2" in result.stdout
    one, two = (load_file(out / f"top-{place}" / "model.safetensors") for place in (1, 2))
    assert any((one[name] != two[name]).any() for name in one)
    first, best = (out / name for name in ("top-1.yml", "best.yml"))
    assert first.read_text().splitlines()[1:] == best.read_text().splitlines()[1:]


@MORE
def test_until_the_time_is_up(home: Path, chat_models: Path, tmp_path: Path) -> None:
    """No candidate begins after it; those that are there count, and more time finds more."""
    path = search_file(home, chat_models, "time", time="2s")
    path.write_text(path.read_text().replace("trials: 8\n", ""))
    search_result = weightsmith.search(path, tmp_path / "out")
    assert search_result.trials and search_result.best.score is not None
    more = weightsmith.search(path, tmp_path / "out", resume=True)
    assert len(more.trials) > len(search_result.trials)


@MORE
def test_layers_of_either_model(home: Path, chat_models: Path, tmp_path: Path) -> None:
    """Slices, where they are cut, and what they come from, are spaces too."""
    own = {"perplexity": "text.txt"}
    layers = {"choice": [[0, 1], [1, 2]]}
    models = {"choice": [str(chat_models / "a"), str(chat_models / "b")]}
    slices = [
        {"sources": [{"model": models, "layer_range": [0, 1]}]},
        {"sources": [{"model": str(chat_models / "base"), "layer_range": layers}]},
    ]
    recipe = {"merge_method": "passthrough", "slices": slices, "dtype": "float32"}
    path = home / "slices.yml"
    path.write_text(json.dumps({"recipe": recipe, "objective": own, "sampler": "grid"}))
    search_result = weightsmith.search(path, tmp_path / "out")
    assert len(search_result.trials) == 4 and len({trial.score for trial in search_result.trials}) == 4
    weightsmith.merge(tmp_path / "out" / "best.yml", tmp_path / "merged")


def test_nsga2_searches_for_a_front(home: Path, chat_models: Path, tmp_path: Path) -> None:
    """Nothing is stopped for being behind in the sum; the front is the one that Optuna finds."""
    path = search_file(home, chat_models, "front", sampler="nsga2", trials=20)
    path.write_text(path.read_text().replace("sums.jsonl, weight", "sums.jsonl, metric: perplexity, weight"))
    search_result = weightsmith.search(path, tmp_path / "out")
    assert {trial.state for trial in search_result.trials} == {"complete"}
    theirs = optuna.load_study(
        study_name="weightsmith", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}"
    ).best_trials
    front = pareto_front(search_result.trials, search_result.objectives)
    assert {trial.number for trial in front} == {trial.number for trial in theirs} and search_result.best in front


@MORE
@pytest.mark.parametrize("sampler", ["grid", "random", "cmaes"])
def test_samplers(sampler: str, home: Path, chat_models: Path, tmp_path: Path) -> None:
    search_result = weightsmith.search(
        search_file(home, chat_models, sampler, sampler=sampler, trials=9), tmp_path / "out"
    )
    assert len(search_result.trials) == 9 and search_result.best.score is not None


@MORE
def test_workers_that_are_killed_cost_their_candidates(home: Path, chat_models: Path, tmp_path: Path) -> None:
    path, killed = search_file(home, chat_models, "workers", trials=10), list[int]()

    def log(line: str) -> None:
        if line.startswith("2:") and not killed:  # at least one of the two is at work
            search_result = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "spawn_main"], capture_output=True, text=True
            )
            killed.extend(map(int, search_result.stdout.split()))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    search_result = weightsmith.search(path, tmp_path / "out", workers=2, threads=1, log=log)
    lost = [trial.error for trial in search_result.trials if trial.state == "failed"]
    assert len(killed) == 2 and len(search_result.trials) == 10
    assert lost and set(lost) == {"its worker died"} and len(lost) <= 2


@MORE
def test_on_ray(home: Path, chat_models: Path, tmp_path: Path) -> None:
    """A local cluster of two workers, one of which is killed at its work."""
    path, killed = search_file(home, chat_models, "ray", trials=8), list[int]()

    def kill() -> None:
        while not killed:
            search_result = subprocess.run(["pgrep", "-f", "ray::run_trial"], capture_output=True, text=True)
            killed.extend(map(int, search_result.stdout.split()[:1]))
        os.kill(killed[0], signal.SIGKILL)

    def log(line: str) -> None:
        if line.startswith("2:"):
            threading.Thread(target=kill, daemon=True).start()

    search_result = weightsmith.search(path, tmp_path / "out", workers=2, ray="local", threads=1, log=log)
    lost = [trial.error for trial in search_result.trials if trial.state == "failed"]
    assert killed and len(search_result.trials) == 8
    assert len(lost) == 1 and lost[0].startswith("its worker died")


def test_all_candidates_fail(home: Path, chat_models: Path, tmp_path: Path) -> None:
    path = search_file(home, chat_models, "fail", trials=12)
    text = path.read_text().replace("[0.1, 1.2]", "[1.0e+8, 2.0e+8]").replace("{choice: [true, false]}", "false")
    path.write_text(text.replace("float32", "float16"))
    with pytest.raises(SearchError, match=r"the first 10 candidates all failed; the last said: .*float16"):
        weightsmith.search(path, tmp_path / "out")


def test_a_candidate_that_fails_is_passed_over(home: Path, chat_models: Path, tmp_path: Path) -> None:
    """One of two models to choose from holds NaN; the grid is searched to its end all the same."""
    shutil.copytree(chat_models / "b", tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    path = search_file(home, chat_models, "nan", sampler="grid")
    own = ", parameters: {weight: {uniform: [0.1, 1.2]}, density: {uniform: [0.2, 1.0]}}"
    text = (
        path.read_text()
        .replace("{choice: [ties, task_arithmetic]}", "task_arithmetic")
        .replace("{choice: [true, false]}", "false")
    )
    text = text.replace(own, ", parameters: {weight: 0.5}").replace(
        f"model: {chat_models / 'b'},", f"model: {{choice: [{chat_models / 'b'}, {tmp_path / 'broken'}]}},"
    )
    path.write_text(text)
    search_result = weightsmith.search(path, tmp_path / "out")
    assert {trial.state for trial in search_result.trials} == {"complete", "failed"}
    assert all("holds 1 NaN" in trial.error for trial in search_result.trials if trial.state == "failed")
    assert search_result.best.tree["models"][1]["model"] == str(chat_models / "b")
    assert [one.label for one in search_result.final.candidates][-3:] == ["base", "a", "b"]


def test_scores_that_are_not_numbers() -> None:
    assert is_finite([{0: (1.0, 1.0)}]) and not is_finite([{0: (1.0, 1.0)}, {0: (float("nan"), 1.0)}])


def test_another_search_is_running(home: Path, chat_models: Path, tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", is_worth_keeping=lambda: True):
        result = weightsmith_process("search", search_file(home, chat_models, "locked"), tmp_path / "out")
    assert result.returncode == 2 and f"another weightsmith command (process {os.getpid()})" in result.stderr


def test_another_program_holds_the_database(
    home: Path, chat_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found until then is kept, and the search goes on when it is let go."""
    monkeypatch.setattr(study, "PATIENCE", 0.5)
    path, out, held = search_file(home, chat_models, "held", trials=4), tmp_path / "out", list[sqlite3.Connection]()

    def log(line: str) -> None:
        if line.startswith("1:"):
            held.append(sqlite3.connect(out / "study.db"))
            held[0].execute("BEGIN EXCLUSIVE")

    with pytest.raises(SearchError, match=r"study\.db: cannot be used \(database is locked\); .*--resume"):
        weightsmith.search(path, out, log=log)
    held[0].close()
    search_result = weightsmith.search(path, out, resume=True)
    assert [trial.number for trial in search_result.trials] == [0, 1, 2, 3]


def test_a_damaged_database(home: Path, chat_models: Path, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    result = weightsmith_process("search", search_file(home, chat_models, "damaged"), tmp_path, "--resume")
    assert result.returncode == 2 and "study.db: cannot be used" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("- {perplexity: text.txt}", "- {perplexity: nothing.txt}", "nothing.txt: no such file"),
        pytest.param("- {perplexity: text.txt}", "- {task: no_such_task}", "no_such_task", marks=MORE),
        pytest.param(
            "- {perplexity: text.txt}",
            "- {task: quick_facts, metric: bleu}",
            "'quick_facts' has no metric bleu",
            marks=MORE,
        ),
        pytest.param("{perplexity: text.txt}", "{perplexity: text.txt, metric: acc}", "belong to a 'task'", marks=MORE),
        pytest.param("trials: 8", "time: soon", "'soon': not a time", marks=MORE),
        pytest.param("trials: 8", "sampler: gird", "sampler", marks=MORE),
        pytest.param("[ties, task_arithmetic]", "[tis]", "did you mean 'ties'", marks=MORE),
        ("uniform: [0.1, 1.2]", "uniform: [1.2, 0.1]", "inverted space"),
    ],
)
def test_bad_files(old: str, new: str, message: str, home: Path, chat_models: Path, tmp_path: Path) -> None:
    path = search_file(home, chat_models, "bad")
    path.write_text(path.read_text().replace(old, new))
    result = weightsmith_process("search", path, tmp_path / "out")
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2  # it may say that models are opened
