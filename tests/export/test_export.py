"""GGUF by llama.cpp's converter and quantizer; what comes out is loaded by llama.cpp."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

import weightsmith
from tests.conftest import weightsmith_process
from weightsmith.evaluate.backend import question_tokens
from weightsmith.evaluate.llama_cpp_backend import LlamaCppBackend


def kinds(path: Path) -> set[str]:
    return {t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def test_quantized_with_its_intermediate(chat_models: Path, tmp_path: Path) -> None:
    done = weightsmith.export(chat_models / "a", tmp_path / "small-Q8_0.gguf", type="Q8_0")
    assert {p.name for p in tmp_path.iterdir()} == {"small-Q8_0.gguf", "small-f16.gguf"}
    assert done.intermediate == tmp_path / "small-f16.gguf"
    assert "Q8_0" in kinds(done.out) and "F16" in kinds(done.intermediate)
    backend = LlamaCppBackend(done.out, 2)
    (text,) = backend.generate([question_tokens(backend, "Who are you?")], 8, lambda question, text: True)
    assert text


def test_no_keep(chat_models: Path, tmp_path: Path) -> None:
    result = weightsmith_process("export", chat_models / "a", tmp_path / "small.gguf", "--type", "q4_k_m", "--no-keep")
    assert result.returncode == 0, result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["small.gguf"]


@pytest.mark.parametrize("kind,held", [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")])
def test_plain_types(kind: str, held: str, chat_models: Path, tmp_path: Path) -> None:
    done = weightsmith.export(chat_models / "a", tmp_path / "plain.gguf", type=kind)
    assert kinds(done.out) <= {held, "F32"}
    assert held in kinds(done.out)


def test_code_in_a_model_folder_never_runs(chat_models: Path, tmp_path: Path) -> None:
    folder, proof = tmp_path / "hostile", tmp_path / "ran"
    shutil.copytree(chat_models / "a", folder)
    code = f"open({str(proof)!r}, 'w').close()\nclass Tok: pass\nclass Conf: pass\n"
    for name in ("evil.py", "sitecustomize.py", "transformers.py", "torch.py", "convert_hf_to_gguf.py"):
        (folder / name).write_text(code)
    for name, mapped in (
        ("config.json", {"AutoConfig": "evil.Conf"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Tok", None]}),
    ):
        content = json.loads((folder / name).read_text()) | {"auto_map": mapped}
        (folder / name).write_text(json.dumps(content))
    # -P as the installed `weightsmith` has it: the working directory is not a place to import from
    command = [
        sys.executable,
        "-P",
        "-m",
        "weightsmith",
        "export",
        str(folder),
        str(tmp_path / "out-q8_0.gguf"),
        "-t",
        "q8_0",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert not proof.exists(), result.stderr
    assert result.returncode == 0, result.stderr


BAD = {
    "type": (("a", "out.gguf", "--type", "q9"), "unknown GGUF type 'q9'"),
    "name": (("a", "out.bin"), "the output's name ends in .gguf"),
    "model": (("nowhere", "out.gguf"), "no such folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, chat_models: Path, tmp_path: Path) -> None:
    (model, out, *options), message = BAD[case]
    result = weightsmith_process("export", chat_models / model, tmp_path / out, *options)
    assert result.returncode == 2
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_replaced(chat_models: Path, tmp_path: Path) -> None:
    for taken in ("x-q8_0.gguf", "x-f16.gguf"):
        (tmp_path / taken).write_text("mine")
        result = weightsmith_process("export", chat_models / "a", tmp_path / "x-q8_0.gguf", "--type", "q8_0")
        assert result.returncode == 2 and "exists" in result.stderr
        assert (tmp_path / taken).read_text() == "mine"
        (tmp_path / taken).unlink()


def test_a_model_llama_cpp_does_not_know(chat_models: Path, tmp_path: Path) -> None:
    shutil.copytree(chat_models / "a", tmp_path / "odd")
    config = tmp_path / "odd" / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "OddForCausalLM"))
    result = weightsmith_process("export", tmp_path / "odd", tmp_path / "odd.gguf")
    assert result.returncode == 2
    assert "llama.cpp's converter cannot convert it" in result.stderr and "OddForCausalLM" in result.stderr
    assert not list(tmp_path.glob("*.gguf*")) and not list(tmp_path.glob(".*"))
