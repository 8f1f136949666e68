"""The page reads the folders that were given, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from weightsmith.errors import RecipeError
from weightsmith.page.allowed_folders import AllowedFolders

PIPELINE = """merge:
  merge_method: linear
  models:
    - {{model: "{first}", parameters: {{weight: 1}}}}
    - {{model: "{second}", parameters: {{weight: 1}}}}
{more}"""


@pytest.fixture
def allowed(tmp_path: Path) -> AllowedFolders:
    for name in ("models/phi/coder", "models/.hidden", "runs", "secret/model"):
        (tmp_path / name).mkdir(parents=True)
    for folder in ("models/phi/coder", "models/.hidden", "secret/model"):
        (tmp_path / folder / "config.json").write_text("{}")
        (tmp_path / folder / "model.safetensors").write_bytes(b"")
    (tmp_path / "models" / "tiny.GGUF").write_bytes(b"")
    (tmp_path / "models" / "adapter").mkdir()
    (tmp_path / "models" / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "models" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "models" / "q.jsonl").write_text("")
    return AllowedFolders([tmp_path / "models"], home=tmp_path / "runs")


def text_of(first: object, second: object = "owner/name", more: str = "") -> str:
    return PIPELINE.format(first=first, second=second, more=more)


def test_what_is_found(allowed: AllowedFolders, tmp_path: Path) -> None:
    found = [allowed.short(path) for path in allowed.models()]
    assert found == ["models/adapter", "models/phi/coder", "models/tiny.GGUF"]
    assert allowed.files(".jsonl") == [tmp_path / "models" / "q.jsonl"]


def test_what_is_taken(allowed: AllowedFolders, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for reference in (
        models / "phi/coder",
        "owner/name@main",
        f"{models}/tiny.GGUF+{models}/adapter",
        "../models/phi/coder",
    ):
        allowed.check_reference(str(reference))
        allowed.check_pipeline(text_of(reference), Path("pipeline.yml"))


@pytest.mark.parametrize(
    "reference",
    [
        "/etc/passwd",
        "/etc/nothing-there",  # whether it exists is not told either
        "{root}/secret/model",
        "{root}/models/../secret/model",
        "{root}/models/link/model",
        "../secret/model",
        "~/model",
        "$HOME/model",
        "${{HOME}}/model",
        "owner/name+/etc",
        "owner/name+../secret/model",
        "{root}/models/phi/coder+{root}/secret/model",
        "{root}/secret/model@main",
    ],
)
def test_what_is_refused(allowed: AllowedFolders, tmp_path: Path, reference: str) -> None:
    reference = reference.format(root=tmp_path)
    with pytest.raises(RecipeError, match="is not in the folders that the page was started with"):
        allowed.check_reference(reference)
    with pytest.raises(RecipeError, match="is not in the folders") as refused:
        allowed.check_pipeline(text_of("owner/name", reference), Path("pipeline.yml"))
    assert refused.value.line == 5


@pytest.mark.parametrize(
    "more, line",
    [
        ("evaluate: {{questions: [{root}/secret/q.jsonl]}}", 6),
        ("evaluate:\n  texts:\n    - ../secret/a.txt", 8),
        ("evaluate: {{models: {{x: {root}/secret/model}}}}", 6),
        ("evaluate: {{include: [tasks]}}", 6),
        ("evaluate: {{data: {root}/models, suites: [quick]}}", 6),
        ("  tokenizer: {{source: {root}/secret/model}}", 6),
        ("  tokenizer_source: {root}/secret/model", 6),
        ("  include: other.yml", 6),
    ],
)
def test_other_keys_are_looked_at(allowed: AllowedFolders, tmp_path: Path, more: str, line: int) -> None:
    with pytest.raises(RecipeError) as refused:
        allowed.check_pipeline(text_of("a/b", more=more.format(root=tmp_path)), Path("pipeline.yml"))
    assert refused.value.line == line


def test_what_lies_in_the_working_folder_is_outside_too(
    allowed: AllowedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models are looked for there first."""
    monkeypatch.chdir(tmp_path)
    allowed.check_reference("models/phi/coder")
    for reference in ("secret/model", "owner/name+secret/model", "secret/model@main"):
        with pytest.raises(RecipeError, match="is not in the folders"):
            allowed.check_reference(reference)


def test_a_recipe_by_name_is_refused(allowed: AllowedFolders, tmp_path: Path) -> None:
    (tmp_path / "models" / "r.yml").write_text("models: [{model: /etc}]")
    with pytest.raises(RecipeError, match="takes the recipe itself"):
        allowed.check_pipeline(f"merge: {tmp_path}/models/r.yml", Path("pipeline.yml"))


def test_a_long_form_is_looked_into(allowed: AllowedFolders, tmp_path: Path) -> None:
    for inner in ("{path: /etc/x}", "{model: {path: /etc/x, revision: a}}"):
        text = f"merge:\n  merge_method: passthrough\n  models:\n    - model: {inner}\n"
        with pytest.raises(RecipeError, match="is not in the folders"):
            allowed.check_pipeline(text, Path("pipeline.yml"))
