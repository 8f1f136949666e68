"""Our backends against lm-evaluation-harness's own: same weights, tasks, questions and scores, one after the other.

    make bench-evaluate                                       # everything, about 2½ hours; runs the demo for its models
    python benchmarks/evaluate_against_lm_eval.py case zero-shot --limit 10
    python benchmarks/evaluate_against_lm_eval.py gguf
    python benchmarks/evaluate_against_lm_eval.py models
    python benchmarks/evaluate_against_lm_eval.py page        # docs/evaluation-benchmarks.md from what was measured

Each side is a process of its own; times are those of asking, with models and tasks loaded. lm-eval's batch size is the
best of several on a few questions of the same case. `--data DIR` as in `weightsmith evaluate`; without it tasks come
from the hub.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from measured import measure, processor
from ruamel.yaml import YAML

from weightsmith.files.markdown import markdown_table
from weightsmith.machine import describe_machine, fast_precision

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
FOLDER, PAGE = Path("build/bench-evaluate"), Path("docs/evaluation-benchmarks.md")
RESULTS, DEMO = FOLDER / "results.json", Path("demo")
PROGRAM = Path(sysconfig.get_path("scripts")) / "weightsmith"
AGIEVAL = "aqua_rat logiqa_en lsat_ar lsat_lr lsat_rc sat_en sat_en_without_passage sat_math".split()
BBH = ["date_understanding", "logical_deduction_three_objects", "navigate", "sports_understanding"]
BATCHES = (1, 4, 8, 16)
CASES: dict[str, tuple[str, list[str], int | None]] = {
    "zero-shot": ("AGIEval, 8 tasks, 0-shot", [f"agieval_{name}" for name in AGIEVAL], None),
    "fixed": ("AGIEval, 8 tasks, 5-shot, the first examples", [f"fixed_agieval_{name}" for name in AGIEVAL], 5),
    "drawn": ("AGIEval, 8 tasks, 5-shot, drawn examples", [f"shots_agieval_{name}" for name in AGIEVAL], 5),
    "gsm8k": ("GSM8K, 5-shot, generated", ["gsm8k"], 5),
    "bbh": ("BBH, 4 tasks, 3-shot, chosen", [f"leaderboard_bbh_{name}" for name in BBH], None),
    "bbh-generated": ("BBH, 4 tasks, 3-shot, generated", [f"bbh_fewshot_{name}" for name in BBH], None),
    "wikitext": ("WikiText-2, whole pages", ["wikitext"], None),
}
LIMITS = {"zero-shot": 10, "fixed": 5, "drawn": 5, "gsm8k": 50, "bbh": 20, "bbh-generated": 20, "wikitext": 6}
GENERATED = ("gsm8k", "bbh-generated")
SUBSET = ["agieval_aqua_rat", "agieval_sat_math"]
LIMIT = typer.Option(help="Questions of each task.")
DATA = typer.Option(help="Folder with the tasks' data, as `weightsmith evaluate --data` takes it.")


@app.command()
def case(
    name: str,
    limit: Annotated[int | None, LIMIT] = None,
    data: Annotated[Path | None, DATA] = None,
    batch: Annotated[int | None, typer.Option(help="lm-eval's batch size; the best of several if not given.")] = None,
) -> None:
    """One row against lm-eval's `hf` model, in float32 and, where the processor has it, bfloat16."""
    title, tasks, fewshot = CASES[name]
    with _included() as include:
        order = _order(str(_base()), tasks, limit or LIMITS[name], data, include) | {"fewshot": fewshot}
        tried = batch is None
        batch = batch or _best_batch(name, order)
        theirs, ours = _run("lm_eval", order, batch=batch), _run("weightsmith", order)
        row = {"title": title, "batch": str(batch) if tried else f"{batch}, given"} | _compared(theirs, ours)
        if fast_precision() == "bfloat16":
            half = _run("weightsmith", order, dtype="bfloat16")
            row |= {"bfloat16": half["seconds"], "bfloat16_agree": _agree(ours, half)}
    _keep(name, row)


@app.command()
def gguf(limit: Annotated[int, LIMIT] = 4, data: Annotated[Path | None, DATA] = None) -> None:
    """F16 and Q4_K_M against lm-eval's `gguf` model, which asks a llama.cpp server that has the same file."""
    for kind in ("f16", "q4_k_m"):
        file = _exported(kind)
        with _included() as include, _server(file) as url:
            order = _order(str(file), SUBSET, limit, data, include)
            theirs, ours = _run("server", order, url=url), _run("weightsmith", order)
            right = _run("weightsmith", order, model=str(_base()))
        agree = {"their_right": _agree(right, theirs), "our_right": _agree(right, ours)}
        title = f"GGUF {kind.upper()}, AGIEval, 2 tasks, 0-shot"
        _keep(f"gguf {kind}", {"title": title} | agree | _compared(theirs, ours))


@app.command()
def models(limit: Annotated[int, LIMIT] = 20, data: Annotated[Path | None, DATA] = None) -> None:
    """The base alone, and the base, two fine-tunes and the merge: whole runs of `weightsmith evaluate`, without earlier
    answers."""
    base = _base()
    named = [
        f"base={base}",
        *(f"{skill}={base}+{_adapter(skill)}" for skill in ("dates", "records")),
        f"merged={DEMO / 'merged'}",
    ]
    rows_by_case = {}
    for count in (1, 4):
        with tempfile.TemporaryDirectory() as out:
            tasks = ["--tasks", ",".join(CASES["zero-shot"][1]), "--limit", str(limit), "-o", out]
            given = ["--data", str(data)] if data else []
            rows_by_case[count] = measure([str(PROGRAM), "evaluate", *named[:count], *tasks, *given])
    _keep(
        "models",
        {"one": rows_by_case[1].wall, "four": rows_by_case[4].wall, "peak": rows_by_case[4].peak, "limit": limit},
    )


@app.command()
def page() -> None:
    """Write docs/evaluation-benchmarks.md from what was measured."""
    rows_by_case: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())
    rows = [
        [
            "work",
            "questions",
            "lm-eval, s",
            "batch",
            "weightsmith, s",
            "ratio",
            "same",
            "ln p apart",
            "lm-eval, GB",
            "weightsmith, GB",
        ]
    ]
    halves = [["work", "float32, s", "bfloat16, s", "ratio", "same"]]
    for row in (rows_by_case[name] for name in CASES if name in rows_by_case):
        rows.append(
            [
                row["title"],
                str(row["questions"]),
                f"{row['theirs']:.1f}",
                str(row["batch"]),
                f"{row['ours']:.1f}",
                f"{row['theirs'] / row['ours']:.1f}",
                f"{row['same']} of {row['questions']}",
                "" if row["apart"] is None else f"{row['apart']:.0e}",
                f"{row['their_peak'] / 1e9:.2f}",
                f"{row['our_peak'] / 1e9:.2f}",
            ]
        )
        if "bfloat16" in row:
            halves.append(
                [
                    row["title"],
                    f"{row['ours']:.1f}",
                    f"{row['bfloat16']:.1f}",
                    f"{row['ours'] / row['bfloat16']:.2f}",
                    f"{row['bfloat16_agree']} of {row['questions']}",
                ]
            )
    text = [
        "# Evaluation, measured",
        "",
        *sorted({row["where"] for row in rows_by_case.values()}),
        "",
        ABOUT,
        "",
        markdown_table(rows),
    ]
    if len(halves) > 1:
        text += ["", "## In bfloat16", "", markdown_table(halves)]
    if any(name.startswith("gguf") for name in rows_by_case):
        text += ["", "## GGUF", "", SERVER, "", markdown_table(_gguf_rows(rows_by_case))]
    if figures := rows_by_case.get("models"):
        text += [
            "",
            "## More models",
            "",
            f"`weightsmith evaluate` as a whole (start, loading, {figures['limit']} questions of each of the eight "
            "tasks), no stored answers: "
            f"the base alone {figures['one']:.1f} s, four models (base, two adapters on it, the merge) "
            f"{figures['four']:.1f} s, "
            f"{figures['four'] / figures['one']:.2f} times as long, {figures['peak'] / 1e9:.2f} GB.",
        ]
    PAGE.write_text("\n".join(text) + "\n", encoding="utf-8")


ABOUT = """`make bench-evaluate` writes this page. SmolLM2-135M, the demo's base; both programs ask the same questions in the same run, each in a
process of its own, times without loading. lm-eval has the best of the batch sizes 1, 4, 8 and 16 (generation from 4, whole pages 1),
chosen by trial beforehand, unless the table says that it was given. "Same" counts questions of which every metric is equal; "ln p apart" is the
largest difference of a log-likelihood (of WikiText: of a whole page)."""
SERVER = """lm-eval's `gguf` model with llama-cpp-python's server on this machine, which has the same file. "As float32" counts questions of
which every metric equals that of the float32 safetensors. The server's figures are wrong: its `echo` gives the log-probability of each
token at the place of the one before it, and no generated token, so that lm-eval leaves out the last one of each answer. The ratio is
therefore one of time alone."""


def _gguf_rows(rows_by_case: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [
        ["work", "questions", "lm-eval and server, s", "weightsmith, s", "ratio", "as float32: server", "weightsmith"]
    ]
    for row in (row for name, row in rows_by_case.items() if name.startswith("gguf")):
        figures = [f"{row['theirs']:.1f}", f"{row['ours']:.1f}", f"{row['theirs'] / row['ours']:.0f}"]
        rows.append([row["title"], str(row["questions"]), *figures, str(row["their_right"]), str(row["our_right"])])
    return rows


@app.command()
def everything(data: Annotated[Path | None, DATA] = None) -> None:
    """All rows, and the page."""
    for name in CASES:
        case(name, data=data)
    gguf(data=data)
    models(data=data)
    page()


def _order(model: str, tasks: list[str], limit: int, data: Path | None, include: str) -> dict[str, Any]:
    return {
        "model": model,
        "tasks": tasks,
        "limit": limit,
        "data": str(data) if data else None,
        "include": include,
        "fewshot": None,
        "dtype": "float32",
        "threads": len(os.sched_getaffinity(0)),
    }


def _run(side: str, order: dict[str, Any], **more: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        one = str(Path(__file__).with_name("evaluate_one_side.py"))
        done = subprocess.run(
            [sys.executable, one, json.dumps(order | more | {"side": side}), out.name],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return json.loads(Path(out.name).read_text())


def _best_batch(name: str, order: dict[str, Any]) -> int:
    batches = BATCHES[1:] if name in GENERATED else BATCHES
    if name in ("fixed", "drawn"):
        batches = (1, 4)  # logits of 16 prompts take 10 GB
    if name == "wikitext":
        return 1  # logits of a page take 1.6 GB
    seconds = _run("probe", order | {"batches": batches, "generates": name in GENERATED})["seconds"]
    return min(batches, key=lambda size: seconds[str(size)])


def _compared(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    return {
        "questions": len(theirs["answers"]),
        "theirs": theirs["seconds"],
        "ours": ours["seconds"],
        "same": _agree(theirs, ours),
        "their_peak": theirs["peak"],
        "our_peak": ours["peak"],
        "apart": _apart(theirs, ours),
    }


def _agree(one: dict[str, Any], other: dict[str, Any]) -> int:
    return sum(_equal(other["answers"][question], metrics) for question, metrics in one["answers"].items())


def _equal(ours: Any, theirs: Any) -> bool:
    """Metrics are equal; the sums behind a perplexity to five digits."""
    if isinstance(ours, dict):
        return all(_equal(ours[name], theirs[name]) for name in theirs)
    if isinstance(ours, list):
        return all(map(_equal, ours, theirs))
    return math.isclose(ours, theirs, rel_tol=1e-5) if isinstance(ours, float) else ours == theirs


def _apart(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """The largest difference of a log-likelihood; None where nothing has one."""
    pairs = [
        pair
        for name, rows_by_case in one["scores"].items()
        for pair in zip(rows_by_case, other["scores"][name], strict=True)
    ]
    return max((abs(a - b) for a, b in pairs), default=None)


def _keep(name: str, row: dict[str, Any]) -> None:
    lm_eval = metadata.version("lm-eval")
    rows_by_case = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows_by_case[name] = row | {"where": f"{processor()}; {describe_machine()}, lm-eval {lm_eval}"}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows_by_case, indent=1))
    print(name, {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True)


@contextmanager
def _included() -> Iterator[str]:
    """AGIEval's tasks in a form that lm-eval 0.4.13 can take examples for (its own ends in "Answer is not a string!":
    `gold` is a list), and the same with `first_n` examples."""
    import lm_eval

    tasks = Path(lm_eval.__path__[0]) / "tasks" / "agieval"
    with tempfile.TemporaryDirectory() as folder:
        for name in AGIEVAL:
            text = f'include: {tasks / name.replace("_", "-")}.yaml\ndoc_to_target: "{{{{gold[0]}}}}"\n'
            (Path(folder) / f"shots_{name}.yaml").write_text(f"{text}task: shots_agieval_{name}\n")
            fixed = f"{text}task: fixed_agieval_{name}\nfewshot_config: {{sampler: first_n}}\n"
            (Path(folder) / f"fixed_{name}.yaml").write_text(fixed)
        yield folder


def _pipeline() -> dict[str, Any]:
    if not (DEMO / "pipeline.yml").exists():
        raise SystemExit(f"{DEMO} has no demo: run `make demo` first")
    return YAML(typ="safe").load(DEMO / "pipeline.yml")


def _adapter(skill: str) -> str:
    return _pipeline()["evaluate"]["models"][skill].partition("+")[2]


def _base() -> Path:
    """The demo's base in float32, as a folder that lm-eval can load."""
    folder = FOLDER / "base"
    if not (folder / "config.json").exists():
        recipe = {
            "merge_method": "passthrough",
            "models": [{"model": _pipeline()["merge"]["base_model"]}],
            "dtype": "float32",
        }
        FOLDER.mkdir(parents=True, exist_ok=True)
        YAML().dump(recipe, FOLDER / "base.yml")
        subprocess.run([PROGRAM, "merge", FOLDER / "base.yml", folder], check=True)
    return folder


def _exported(kind: str) -> Path:
    file = FOLDER / kind / "base.gguf"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([PROGRAM, "export", _base(), file, "--type", kind], check=True)
    return file


@contextmanager
def _server(file: Path) -> Iterator[str]:
    """llama-cpp-python's server, with what lm-eval's `gguf` model needs: the logits of the prompt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(file), "--port", str(port), "--n_ctx", "2048"]
    command += ["--n_threads", threads, "--n_threads_batch", threads, "--logits_all", "true"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(240):
                if server.poll() is not None:
                    raise SystemExit(f"the server does not start: {' '.join(command)}")
                with socket.socket() as attempt:
                    if attempt.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


if __name__ == "__main__":
    app()
