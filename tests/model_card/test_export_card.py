"""Model cards of folders of GGUF files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import weightsmith as ws
from tests.code_blocks import blocks
from tests.gguf.modelfile_parser import parse_modelfile

TIES = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": name, "parameters": {"weight": 0.5, "density": 0.5}} for name in "ab"],
    "dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def exported(chat_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """merged/ and gguf/, of models under the MIT license."""
    root = tmp_path_factory.mktemp("exported")
    for name in ("base", "a", "b"):
        shutil.copytree(chat_models / name, root / name)
        (root / name / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
    ws.merge(ws.Recipe.from_dict(TIES, path=root / "ties.yml"), root / "merged")
    ws.export(root / "merged", root / "gguf", types=["q8_0"], check="none")
    return root


def test_the_head_and_the_files(exported: Path) -> None:
    gguf = exported / "gguf"
    card = ModelCard.load(gguf / "README.md")
    data = card.data.to_dict()
    assert data["base_model_relation"] == "quantized" and data["tags"] == ["merge", "weightsmith", "ties", "gguf"]
    assert (data["license"], data["language"]) == ("mit", ["en"]) and "base_model" not in data
    text = (gguf / "README.md").read_text()
    for file in gguf.glob("*.gguf"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in text
    assert "merge_method: ties" in text and str(exported) not in text
    assert [value for name, value in parse_modelfile((gguf / "Modelfile").read_text()) if name == "license"] == ["mit"]


def test_what_ollama_gets_from_the_hub(exported: Path) -> None:
    gguf = exported / "gguf"
    assert json.loads((gguf / "params").read_text()) == {"stop": ["<|im_end|>"]}
    assert (gguf / "template").read_text() in (gguf / "Modelfile").read_text()


def test_the_code_runs(exported: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    (code,) = [code for language, code in blocks(exported / "gguf/README.md") if language == "python"]
    assert "create_chat_completion" in code
    monkeypatch.chdir(exported / "gguf")
    exec(code.replace("max_tokens=100", "max_tokens=3"), {})
    assert capfd.readouterr().out.strip()


def test_an_edited_card_is_kept(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported / "gguf", tmp_path / "gguf")
    (tmp_path / "gguf/README.md").write_text("# Mine\n")
    said: list[str] = []
    ws.export(exported / "merged", tmp_path / "gguf", types=["q8_0"], check="none", log=said.append)
    assert (tmp_path / "gguf/README.md").read_text() == "# Mine\n" and any("README.md" in line for line in said)


def test_a_model_of_the_hub(chat_models: Path, tmp_path: Path) -> None:
    """A folder of the hub's cache: models--OWNER--NAME/snapshots/COMMIT."""
    commit = "c" * 40
    snapshot = tmp_path / "models--someone--tiny-model" / "snapshots" / commit
    shutil.copytree(chat_models / "a", snapshot)
    (snapshot / "README.md").write_text("---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n")
    ws.export(snapshot, tmp_path / "gguf", types=["f16"], check="none", name="tiny")
    data = ModelCard.load(tmp_path / "gguf/README.md").data.to_dict()
    assert data["base_model"] == ["someone/tiny-model"] and data["base_model_relation"] == "quantized"
    assert data["license_link"] == f"https://huggingface.co/someone/tiny-model/blob/{commit}/LICENSE"
    text = (tmp_path / "gguf/README.md").read_text()
    assert f"commit {commit}" in text and "XXH3" not in text and "merge" not in data["tags"]


def test_a_recipe_without_a_merged_folder(exported: Path, tmp_path: Path) -> None:
    from weightsmith.gguf.conversion.export_source import ExportJob

    recipe = exported / "ties.yml"
    recipe.write_text(json.dumps(TIES))
    ws.export(ExportJob(recipe=str(recipe)), tmp_path / "gguf", types=["f16"], check="none")
    text = (tmp_path / "gguf/README.md").read_text()
    assert "merge_method: ties" in text and "base_model_relation: quantized" in text and str(exported) not in text
