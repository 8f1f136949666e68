"""Two commands on one output: whichever comes second is refused in one sentence, and touches nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hostile.builders import recipe, write_model
from tests.hostile.fork import run_forked
from weightsmith.engine.output.resumable_folder import scratch_of
from weightsmith.files.folder_lock import folder_lock
from weightsmith.files.work_folder import work_folder

SPACE = {"merge_method": "linear", "models": [{"model": "good", "parameters": {"weight": {"uniform": [0.1, 0.9]}}}]}
SECOND = {
    "merge": ("merge", "r.yml", "out", "-q"),
    "unify": ("unify", "good", "out", "-q"),
    "export": ("export", "good", "out", "--type", "f16", "-q"),
    "evaluate": ("evaluate", "good", "--questions", "q.jsonl", "-o", "out", "-q"),
    "search": ("search", "s.yml", "out", "-q"),
    "ablate": ("ablate", "r.yml", "out", "--questions", "q.jsonl", "-q"),
    "run": ("run", "p.yml", "out", "-q"),
    "demo": ("demo", "out", "-q"),
}


@pytest.mark.parametrize("first", ["merge", "evaluate"])
@pytest.mark.parametrize("second", SECOND)
def test_the_second_is_refused(first: str, second: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for seed, name in enumerate(("good", "other")):
        write_model(home / name, seed)
    (home / "r.yml").write_text(recipe("good", "other"))
    (home / "q.jsonl").write_text('{"prompt": "a", "target": "b"}\n' * 4)
    (home / "s.yml").write_text(json.dumps({"recipe": SPACE, "objective": [{"questions": "q.jsonl"}], "trials": 1}))
    (home / "p.yml").write_text(json.dumps({"merge": "r.yml"}))
    out = home / "out"
    held = folder_lock(scratch_of(out)) if first == "merge" else work_folder(out, is_worth_keeping=lambda: True)
    with held:
        before = sorted(str(path) for path in home.rglob("*"))
        outcome = run_forked(SECOND[second], home)
        after = sorted(str(path) for path in home.rglob("*"))
    assert outcome.code == 2, outcome.said
    assert outcome.said.count("\n") == 1 and "out: " in outcome.said
    assert "another weightsmith command" in outcome.said or "exists and is not" in outcome.said, outcome.said
    assert before == after
