"""How long a new candidate of a search takes, until the live model is that merge: SmolLM2-135M and two fine-tunes,
TIES.

    make bench-search                                     # both; full size needs 17 GB of disk
    python benchmarks/search_candidates.py small
    python benchmarks/search_candidates.py full-size      # Phi-2, 2.78 B parameters, random weights, fp16

Every candidate has other weights and densities, so that all tensors are computed; the first one opens the models and
sorts task vectors. mergekit's whole process on the same recipe, in the same run. At full size, all inputs are read once
before each candidate, with files in the page cache and with none there.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import typer
from measured import measure, warm, where
from merge_demo_models import FOLDER, SCRIPTS, make_inputs
from synthetic_phi2 import make_models

from weightsmith.demo.run_demo import base_model
from weightsmith.files.markdown import markdown_table
from weightsmith.machine import fast_precision
from weightsmith.models.open_model import open_model
from weightsmith.recipe_search.trials.input_cache import InputCache
from weightsmith.recipe_search.trials.live_merge import LiveMerge
from weightsmith.tokenizer.tokenizer_files import write_tokenizer_files

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
LARGE, LARGE_ROUNDS = Path("build/bench-phi2"), 3

CANDIDATES, MERGEKIT_ROUNDS = 12, 3


@app.command()
def small() -> None:
    """SmolLM2-135M and two of the demo's fine-tunes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_inputs()
    random = np.random.default_rng(0)
    recipes = [recipe(FOLDER, ("dates", "records"), "float32", random) for _ in range(CANDIDATES)]
    rows = [["", "seconds (lowest to highest)"]]
    for precision in dict.fromkeys(("float32", fast_precision())):
        first, others = candidates(recipes, precision)
        rows.append([f"the first candidate, {precision}", f"{first:.2f}"])
        rows.append([f"each new candidate, {precision}", spread(others)])
    theirs = []
    for one in recipes[:MERGEKIT_ROUNDS]:
        path = FOLDER / "search.yml"
        path.write_text(json.dumps(one))
        shutil.rmtree(FOLDER / "theirs", ignore_errors=True)
        command = [str(SCRIPTS / "mergekit-yaml"), str(path), str(FOLDER / "theirs"), "--no-copy-tokenizer", "--quiet"]
        theirs.append(measure(command).wall)
    rows.append(["mergekit, the whole process", spread(theirs)])
    print(f"{where()}\n")
    print(markdown_table(rows))
    shutil.rmtree(FOLDER / "theirs", ignore_errors=True)


@app.command()
def full_size() -> None:
    """Phi-2 and two fine-tunes, merged in bfloat16."""
    make_models(LARGE, 32)
    write_tokenizer_files(open_model(str(base_model())), LARGE / "base")
    random = np.random.default_rng(0)
    folders = [LARGE / name for name in ("base", "one", "two")]
    seconds: dict[str, list[float]] = {"cached": [], "disk": []}
    reads: dict[str, list[float]] = {"cached": [], "disk": []}
    with live_merge("bfloat16") as live:

        def become() -> float:
            started = time.perf_counter()
            live.become(live.plan(recipe(LARGE, ("one", "two"), "bfloat16", random)))
            return time.perf_counter() - started

        first = become()
        print(f"first: {first:.1f} s", file=sys.stderr, flush=True)
        for _ in range(LARGE_ROUNDS):
            for way in reads:
                prepare = forget if way == "disk" else warm
                prepare(folders)
                started = time.perf_counter()
                warm(folders)
                reads[way].append(time.perf_counter() - started)
                prepare(folders)
                seconds[way].append(become())
                print(
                    f"{way}: read {reads[way][-1]:.1f} s, merged {seconds[way][-1]:.1f} s", file=sys.stderr, flush=True
                )
    rows = [["", "from memory, s", "from the disk, s"]]
    rows += [
        ["all inputs, read once", *(spread(reads[way]) for way in reads)],
        ["the first candidate", f"{first:.1f}", ""],
    ]
    rows += [["each new candidate", *(spread(seconds[way]) for way in reads)]]
    ratios = {way: [a / b for a, b in zip(seconds[way], reads[way], strict=True)] for way in reads}
    rows += [["a candidate against the read before it, times", *(spread(ratios[way]) for way in reads)]]
    print(f"{where()}\n")
    print(markdown_table(rows))


def forget(folders: list[Path]) -> None:
    """Out of the page cache, so that the disk is read."""
    for path in (path for folder in folders for path in folder.glob("*.safetensors")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@app.command()
def everything() -> None:
    """Both."""
    small()
    full_size()


def recipe(folder: Path, names: tuple[str, str], dtype: str, random: np.random.Generator) -> dict:
    """TIES of two fine-tunes, with weights and densities drawn anew."""
    drawn = [round(float(x), 3) for x in random.uniform(0.2, 1.0, 4)]
    models = [
        {"model": str(folder / name), "parameters": {"weight": weight, "density": density}}
        for name, weight, density in zip(names, drawn[::2], drawn[1::2], strict=True)
    ]
    return {"merge_method": "ties", "base_model": str(folder / "base"), "models": models, "dtype": dtype}


def candidates(recipes: list[dict], precision: str) -> tuple[float, list[float]]:
    """Seconds of the first, and of each other one, its plan included."""
    seconds = []
    with live_merge(precision) as live:
        for one in recipes:
            started = time.perf_counter()
            merged = live.become(live.plan(one))
            seconds.append(time.perf_counter() - started)
            print(f"{precision}: {seconds[-1]:.2f} s, {merged.tensors} tensors", file=sys.stderr, flush=True)
    return seconds[0], seconds[1:]


@contextmanager
def live_merge(precision: str, device: str = "cpu") -> Iterator[LiveMerge]:
    with tempfile.TemporaryDirectory() as scratch:
        threads, cache = len(os.sched_getaffinity(0)), InputCache(Path(scratch), 8_000_000_000)
        live = LiveMerge(Path("search.yml"), threads=threads, precision=precision, cache=cache, device=device)
        yield live
        live.close()


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    app()
