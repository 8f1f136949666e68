"""`weightsmith merge` and mergekit side by side on a synthetic Phi-2 (fp16), its depth and its method varied.

    make bench                                               # everything, about 40 minutes; needs 50 GB of disk
    python benchmarks/merge_synthetic.py methods --layers 4  # one part of it
    python benchmarks/merge_synthetic.py growth
    python benchmarks/merge_synthetic.py page                # docs/benchmarks.md and the plot from what was measured

Each row is measured in turn on the same files: the I/O floor (read the inputs once, write one output, fsync),
weightsmith, mergekit, each a process of its own, the inputs read into the page cache before each.
"""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import matplotlib
import typer
from measured import Measured, floor_command, measure, warm, where
from synthetic_phi2 import METHODS, make_models, parameters, write_recipe

matplotlib.use("Agg")
import matplotlib.pyplot as plt

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
FOLDER, DOCS = Path("build/bench-merge"), Path("docs")
RESULTS = FOLDER / "results.json"
DEPTHS = (4, 8, 16, 32)
SCRIPTS = Path(sysconfig.get_path("scripts"))


@app.command()
def methods(
    layers: Annotated[int, typer.Option(help="Depth of the model; Phi-2 has 32.")] = 4,
    only: Annotated[list[str], typer.Argument(help="Methods; all if none is given.")] = [],  # noqa: B006
) -> None:
    """Every method at one depth."""
    for method in only or METHODS:
        _row(layers, method, one_thread=False)


@app.command()
def growth(depths: Annotated[list[int], typer.Argument(help="Depths.")] = list(DEPTHS)) -> None:  # noqa: B006
    """TIES and linear at growing depths, and DELLA, whose work is arithmetic, at the first; on one thread as well."""
    _row(depths[0], "della", one_thread=True)
    for layers in depths:
        for method in ("ties", "linear"):
            _row(layers, method, one_thread=True)


@app.command()
def large() -> None:
    """One tensor of 10 GB (zeros in files that are holes), merged by TIES: how much memory that takes."""
    folder = FOLDER / "large"
    count = 5_000_000_000
    header = json.dumps(
        {"net.w": {"dtype": "F16", "shape": [count // 5000, 5000], "data_offsets": [0, 2 * count]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    for name in ("base", "one", "two"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text('{"model_type": "none"}')
        with (folder / name / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 2 * count)
    recipe, _ = write_recipe(folder, "ties")
    results = _results()
    merge = [sys.executable, "-m", "weightsmith", "merge", str(recipe), str(folder / "ours"), "--quiet"]
    measured = measure(merge)
    results["large"] = {**asdict(measured), "where": where()}
    print(f"one tensor of 10 GB: {measured.wall:.1f} s, {measured.peak / 1e9:.2f} GB")
    RESULTS.write_text(json.dumps(results, indent=1))
    shutil.rmtree(folder)


def _row(layers: int, method: str, *, one_thread: bool) -> None:
    folder = FOLDER / str(layers)
    make_models(folder, layers)
    recipe, inputs = write_recipe(folder, method)
    ours, theirs = folder / "ours", folder / "theirs"
    merge = [sys.executable, "-m", "weightsmith", "merge", str(recipe), str(ours), "--quiet"]
    commands = {"floor": floor_command(inputs, folder / "floor"), "weightsmith": merge}
    if one_thread:
        commands["one thread"] = [*merge, "--threads", "1"]
    commands["mergekit"] = [str(SCRIPTS / "mergekit-yaml"), str(recipe), str(theirs), "--no-copy-tokenizer", "--quiet"]
    results = _results()
    row = results.setdefault(f"{layers} {method}", {"where": where()})
    for name, command in commands.items():
        _clear(folder)
        warm(inputs)
        row[name] = asdict(measure(command))
        measured = Measured(**row[name])
        print(f"{layers} layers, {method}, {name}: {measured.wall:.1f} s, {measured.peak / 1e9:.2f} GB", flush=True)
    _clear(folder)
    RESULTS.write_text(json.dumps(results, indent=1))


def _clear(folder: Path) -> None:
    for name in ("ours", "theirs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "floor").unlink(missing_ok=True)


def _results() -> dict[str, dict]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


@app.command()
def page() -> None:
    """Write docs/benchmarks.md and docs/merge-growth.svg from what was measured."""
    measurements: dict[tuple[int, str], dict[str, Measured]] = {}
    for key, row in _results().items():
        if key == "large":
            continue
        layers, method = key.split()
        measurements[int(layers), method] = {
            name: Measured(**measured) for name, measured in row.items() if name != "where"
        }
    places = sorted({row["where"] for row in _results().values()})
    text = ["# Benchmarks", "", *places, ""]
    text += [
        "`make bench` writes this page. A synthetic Phi-2 (fp16; base normal 0.02, task vectors a tenth of it), "
        "base and two",
        "fine-tunes, `density 0.5/0.5, weight 0.5/0.3, normalize`. Both programs and the I/O floor (read the "
        "inputs once, write one",
        "output, fsync) run in turn on the same files, the inputs in the page cache. CPU is that of all cores "
        "together.",
        "",
    ]
    text += [
        "| layers | method | mergekit, s | weightsmith, s | ratio | mergekit, GB | weightsmith, GB | mergekit, CPU "
        "s | weightsmith, CPU s | floor, s | weightsmith / floor |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for layers, method in sorted(measurements, key=lambda key: (key[0], METHODS.index(key[1]))):
        row = measurements[layers, method]
        them, us, floor = row["mergekit"], row["weightsmith"], row["floor"]
        text.append(
            f"| {layers} | {method} | {them.wall:.1f} | {us.wall:.1f} | {them.wall / us.wall:.1f} | "
            f"{them.peak / 1e9:.2f} | "
            f"{us.peak / 1e9:.2f} | {them.cpu:.1f} | {us.cpu:.1f} | {floor.wall:.1f} | {us.wall / floor.wall:.1f} |"
        )
    grown = {key: row for key, row in sorted(measurements.items()) if "one thread" in row}
    text += [
        "",
        "## Threads and growth",
        "",
        "![Time against size](merge-growth.svg)",
        "",
        "| layers | parameters | method | 1 thread, s | 2 threads, s | ratio | GB |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for (layers, method), row in grown.items():
        one, two = row["one thread"], row["weightsmith"]
        text.append(
            f"| {layers} | {parameters(layers) / 1e9:.2f} B | {method} | {one.wall:.1f} | {two.wall:.1f} | "
            f"{one.wall / two.wall:.2f} | {two.peak / 1e9:.2f} |"
        )
    if measured := _results().get("large"):
        text += [
            "",
            f"One tensor of 10 GB (fp16 zeros), TIES of base and two: {measured['wall']:.0f} s, "
            f"{measured['peak'] / 1e9:.2f} GB.",
        ]
    (DOCS / "benchmarks.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    _plot(grown)


def _plot(grown: dict[tuple[int, str], dict[str, Measured]]) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    looks = {"mergekit": ("tab:red", "o"), "weightsmith": ("tab:blue", "s"), "floor": ("tab:gray", "^")}
    for method, line in (("ties", "-"), ("linear", "--")):
        depths = [layers for layers, of in grown if of == method]
        for name, (color, marker) in looks.items():
            axes.plot(
                [parameters(n) / 1e9 for n in depths],
                [grown[n, method][name].wall for n in depths],
                line,
                color=color,
                marker=marker,
                label=f"{method}: {name}" if name != "floor" else f"{method}: I/O floor",
            )
    axes.set(xscale="log", yscale="log", xlabel="parameters, billions", ylabel="seconds")
    axes.set_xticks([parameters(n) / 1e9 for n in DEPTHS], [f"{parameters(n) / 1e9:.2g}" for n in DEPTHS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    plt.rcParams["svg.hashsalt"] = "weightsmith"
    figure.savefig(DOCS / "merge-growth.svg", metadata={"Date": None})


@app.command()
def everything() -> None:
    """All methods at 4 layers, TIES and linear up to full size, Breadcrumbs at full size, a tensor of 10 GB, and the
    page."""
    methods()
    growth()
    methods(layers=32, only=["breadcrumbs"])
    large()
    page()


if __name__ == "__main__":
    app()
