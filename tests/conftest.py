"""Tiny real models, and the demo's real one, made once per session."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.hub_server import Hub, serving
from tests.strict_device import register_strict_device
from tests.tiny_tokenizer import keep_first_tokens
from tests.warm_process import use_warm_modules, warm_process
from weightsmith import child_process

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
# Files, or groups, that take a minute or more, the longest first: begun last, one of them would keep one worker waiting.
LONGEST = (
    "tests/docs/test_code_blocks.py",
    "demo",
    "tests/hostile/test_hostile.py",
    "tests/evaluation/test_evaluate.py",
    "tests/gguf/test_export.py",
    "tests/recipe_search/test_search.py",
    "tests/pipeline/test_run.py",
    "tests/recipe_search/test_ablate.py",
    "tests/gguf/test_killed.py",
    "tests/engine/test_on_ray.py",
    "tests/gguf/test_merge_to_gguf.py",
    "tests/engine/test_text_methods.py",
)
APART = ("tests/docs/test_code_blocks.py", "tests/hostile/test_hostile.py")  # their tests share nothing that takes long
COLD_MODULE_COMMAND = child_process.module_command
DEMO_QUESTIONS = 12  # of each skill; it has 60
CHAT_TOKENS = 4096  # so that a vocabulary is read in no time
SKILLS = ("dates", "records", "commands")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the cases of which one of each kind is enough every day")


def pytest_configure(config: pytest.Config) -> None:
    """Each worker of `pytest -n` computes on cores of its own: torch's threads wait for each other on shared ones. What a
    shell starts in the background ignores Ctrl-C, and so would every process that tests interrupt."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        cores = sorted(os.sched_getaffinity(0))
        own = cores[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])] or cores
        os.sched_setaffinity(0, own)
        torch.set_num_threads(len(own))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same random numbers in each test and fixture, whichever ran before."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {}
    order = {place: number for number, place in enumerate(LONGEST)}
    for item in items:  # one worker makes the demo, and what a file's tests share
        place = "demo" if "demo" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(item.nodeid if place in APART else place))
        places[item] = order.get(place, len(order))
    items.sort(key=lambda item: places[item])
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("more"):
                item.add_marker(pytest.mark.skip(reason="only with --all"))


@pytest.fixture(scope="session", autouse=True)
def _warm_modules() -> None:
    """What the tests' own process starts as a child is a fork, too."""

    def command(module: str) -> list[str]:
        return (
            warm_process().module_command(module) if module.startswith("weightsmith.") else COLD_MODULE_COMMAND(module)
        )

    use_warm_modules(command)


def weightsmith_process(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """The command line as a person runs it, in a fork of a process that has imported everything where nothing but the
    working folder is asked for."""
    texts = [str(argument) for argument in arguments]
    if options.keys() <= {"cwd"} and (warm := warm_process()).fits:
        return warm.run(texts, Path(options.get("cwd") or os.getcwd()))
    command = [sys.executable, "-m", "weightsmith", *texts]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def stderr_lines(process: subprocess.CompletedProcess[str]) -> list[str]:
    """What it printed to standard error, without the progress lines that a slow machine adds."""
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    return [
        line for line in lines if not re.fullmatch(r"[^:]+: [\d.]+ ?\w* of [\d.]+ \w+(, [^,]+/s)?(, \d+ s left)?", line)
    ]


def save_stranger(
    folder: Path, seed: int, count: int, shape: tuple[int, int], **changed: tuple[int, int, float]
) -> None:
    """A model of a family nobody described: tensors `net.N.w`, float16. `changed`: tensor N -> (row, column, value)."""
    generator = torch.Generator().manual_seed(seed)
    weights = {f"net.{n}.w": torch.randn(*shape, generator=generator).half() for n in range(count)}
    for number, (row, column, value) in changed.items():
        weights[f"net.{number}.w"][row, column] = value
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "tomorrow"}')


def save_family(root: Path, settings: dict, spread: float, **more) -> None:
    """`base`, and the fine-tunes `a`, `b`, `c` of it, as real transformers Llamas with noise on top."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings, **more))
    model.save_pretrained(root / "base")
    tied = model.config.tie_word_embeddings
    clean = {k: v.clone() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    for seed, name in enumerate("abc", start=1):
        generator = torch.Generator().manual_seed(seed)
        noisy = {k: v + spread * torch.randn(v.shape, generator=generator) for k, v in clean.items()}
        model.load_state_dict(noisy, strict=not tied)
        model.save_pretrained(root / name)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny models with no tokenizer: `base`, `a`, `b`, `c`."""
    root = tmp_path_factory.mktemp("models")
    save_family(root, {k: v for k, v in CONFIG.items() if k not in ("architectures", "model_type")}, 0.02)
    return root


@pytest.fixture(scope="session")
def smollm() -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF file."""
    from weightsmith.demo.run_demo import base_model

    return base_model()


@pytest.fixture(scope="session")
def chat_models(tmp_path_factory: pytest.TempPathFactory, smollm: Path) -> Path:
    """`base`, `a`, `b`, `c`: two-layer Llamas with SmolLM2's chat template and the first tokens of its vocabulary."""
    root = _save_chat_models(tmp_path_factory.mktemp("chat-models"), smollm, CHAT_TOKENS)
    for folder in root.iterdir():
        keep_first_tokens(folder, CHAT_TOKENS)
    return root


@pytest.fixture(scope="session")
def whole_vocabulary(tmp_path_factory: pytest.TempPathFactory, smollm: Path) -> Path:
    """The same with all of SmolLM2's tokens."""
    return _save_chat_models(tmp_path_factory.mktemp("whole-vocabulary"), smollm, 49152)


def _save_chat_models(root: Path, smollm: Path, vocabulary: int) -> Path:
    from weightsmith.models.open_model import open_model
    from weightsmith.tokenizer.tokenizer_files import write_tokenizer_files

    settings = CONFIG | {"num_hidden_layers": 2, "vocab_size": vocabulary, "max_position_embeddings": 2048}
    settings |= {"tie_word_embeddings": True, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2}
    del settings["architectures"], settings["model_type"]
    save_family(root, settings, 0.05)
    source = open_model(str(smollm))
    for folder in root.iterdir():
        write_tokenizer_files(source, folder)
    return root


@pytest.fixture(scope="session")
def gguf_file(chat_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import weightsmith

    return weightsmith.export(chat_models / "a", tmp_path_factory.mktemp("gguf") / "a-f32.gguf", types="f32").out


@pytest.fixture
def docs_folder(tmp_path: Path, chat_models: Path, questions: Path) -> Path:
    """What a reader has: a base model, two fine-tunes, questions and a text; and the quickstart's recipe."""
    from tests.code_blocks import ROOT, save_recipes

    for name, source in (("base", "base"), ("coder", "a"), ("writer", "b")):
        shutil.copytree(chat_models / source, tmp_path / name)
    rows = questions.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "skill.jsonl").write_text("".join(rows * 8), encoding="utf-8")
    (tmp_path / "novel.txt").write_text("It was a bright cold day in April. " * 60, encoding="utf-8")
    save_recipes(ROOT / "docs/quickstart.md", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "capitals.jsonl"
    rows = [("The capital of France?", "Paris"), ("And of Italy, in one word, please?", "Rome"), ("Of Peru?", "Lima")]
    path.write_text("".join(json.dumps({"prompt": p, "target": t}) + "\n" for p, t in rows))
    return path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `weightsmith demo` makes, but for two thirds of its questions; what it printed is in `stdout` and
    `stderr` beside it."""
    from weightsmith.demo.run_demo import pipeline_text
    from weightsmith.pipeline.stages import RECORDS

    root = tmp_path_factory.mktemp("demo")
    (root / "out" / RECORDS).mkdir(parents=True)
    text = pipeline_text().replace("\nevaluate:\n", f"\nevaluate:\n  limit: {DEMO_QUESTIONS}\n")
    (root / "out" / "pipeline.yml").write_text(text)
    done = weightsmith_process("demo", root / "out")
    assert done.returncode == 0, done.stderr
    (root / "stdout").write_text(done.stdout)
    (root / "stderr").write_text(done.stderr)
    return root / "out"


@pytest.fixture(scope="session")
def specialists(tmp_path_factory: pytest.TempPathFactory, smollm: Path) -> Path:
    """The demo's base and specialists as float32 folders, which mergekit can read: `base`, `dates`, and so on."""
    import weightsmith
    from weightsmith.demo.run_demo import PACKAGE

    root = tmp_path_factory.mktemp("specialists")
    for name in ("base", *SKILLS):
        reference = str(smollm) if name == "base" else f"{smollm}+{PACKAGE / 'adapters' / name}"
        recipe = root / f"{name}.yml"
        recipe.write_text(
            json.dumps({"merge_method": "passthrough", "models": [{"model": reference}], "dtype": "float32"})
        )
        weightsmith.merge(recipe, root / name)
    return root


@pytest.fixture
def strict_device(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that takes no tensor of the processor's; `strict:1` is another."""
    register_strict_device()
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
    return "strict:0"
