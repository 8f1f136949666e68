"""Models of the hub in the page: inspected and planned from their headers, downloaded by the run alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.hostile.builders import write_adapter, write_model
from tests.hub_server import environment, serving

CLICKS = """
import json, sys
from pathlib import Path
from weightsmith.page.allowed_folders import AllowedFolders
from weightsmith.page.page_actions import PageActions
from weightsmith.page.run_queue import RunQueue

runs = Path(sys.argv[1])
actions = PageActions(AllowedFolders([], home=runs), RunQueue(runs))
models = ["owner/good", "owner/other"]
text, said = actions.draft("", models, "linear", [], [])
answers = {"inspected": actions.inspect("", models, False), "text": text, "said": said}
answers["estimate"] = actions.estimate(text)
again = ["owner/good", "owner/tuned"]
answers["tuned"] = actions.draft("owner/good", again[1:], "linear", [], [])
answers["absent"] = actions.inspect("", ["owner/absent", "owner/good"], False)
print(json.dumps(answers))
"""


def test_by_their_ids(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with serving() as hub:
        for seed, name in enumerate(("good", "other")):
            hub.folders[f"owner/{name}"] = write_model(tmp_path / name, seed)
        hub.folders["owner/tuned"] = write_adapter(tmp_path / "tuned")
        command = [sys.executable, "-c", CLICKS, str(runs)]
        done = subprocess.run(
            command, env=environment(hub, tmp_path), cwd=runs, capture_output=True, text=True, check=False
        )
        sent = hub.sent
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert "2 models can be merged" in answers["inspected"] and ">other</th>" in answers["inspected"]
    assert "owner/good" in answers["text"] and "Can be run: linear of 2 models" in answers["said"]
    assert "problem" not in answers["estimate"]
    assert "owner/absent" in answers["absent"] and "problem" in answers["absent"]
    text, said = answers["tuned"]
    assert "owner/good+owner/tuned" in text and "Can be run" in said  # an adapter goes onto the base
    configs = [tmp_path / name / "config.json" for name in ("good", "other")]
    assert sent["config.json"] == sum(path.stat().st_size for path in configs), "each once, for all five clicks"
