"""Model cards of merges: read with the hub's own classes, their code run, no path of this machine in them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import xxhash
from huggingface_hub import ModelCard

import weightsmith as ws
from tests.code_blocks import blocks
from tests.conftest import weightsmith_process
from weightsmith.model_card.card import Card, may_replace_card
from weightsmith.model_card.describe_inputs import card_head
from weightsmith.model_card.license import license_of
from weightsmith.model_card.provenance import InputModel, InputPart, Provenance, WeightsFile, read_provenance

TIES = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": name, "parameters": {"weight": 0.5, "density": 0.5}} for name in "ab"],
    "dtype": "bfloat16",
}


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def with_cards(source: Path, target: Path, **licenses: str) -> Path:
    """A copy of the folder of models, some with a card."""
    shutil.copytree(source, target)
    for name, head in licenses.items():
        (target / name / "README.md").write_text(f"---\n{head}\n---\n# {name}\n")
    return target


def merged(models: Path, out: Path, recipe: dict = TIES, **options) -> Path:
    ws.merge(ws.Recipe.from_dict(recipe, path=models / "recipe.yml"), out, **options)
    return out


def test_the_hub_reads_the_head(chat_models: Path, tmp_path: Path) -> None:
    models = with_cards(
        chat_models, tmp_path / "m", base="license: mit\nlanguage: [en, no]", a="license: mit", b="license: mit"
    )
    data = card_of(merged(models, tmp_path / "out")).data.to_dict()
    assert data["tags"] == ["merge", "weightsmith", "ties"]
    assert (data["base_model_relation"], data["library_name"]) == ("merge", "transformers")
    assert data["pipeline_tag"] == "text-generation" and data["license"] == "mit"
    assert data["language"] == ["en", "no"]  # and not False, which `no` is in YAML 1.1
    assert "base_model" not in data  # a folder has no id that others could follow


def test_no_path_of_this_machine(chat_models: Path, tmp_path: Path) -> None:
    models = with_cards(chat_models, tmp_path / "somebody's folder")
    recipe = TIES | {
        "base_model": str(models / "base"),
        "models": [
            {"model": {"model": {"path": str(models / "a")}}, "parameters": {"weight": 1.0}},
            {"model": "b", "parameters": {"weight": 1.0}},
        ],
        "tokenizer": {"source": str(models / "a"), "tokens": {"<|im_start|>": {"source": "b"}}},
    }
    out = merged(models, tmp_path / "out", recipe)
    for name in ("README.md", "provenance.json"):
        text = (out / name).read_text()
        assert str(tmp_path) not in text and "somebody" not in text
    recipe = yaml_of(out)
    assert recipe["base_model"] == "base" and [entry["model"] for entry in recipe["models"]] == ["a", "b"]
    assert recipe["tokenizer"]["tokens"]["<|im_start|>"]["source"] == "b"


def yaml_of(out: Path) -> dict:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(next(code for language, code in blocks(out / "README.md") if language == "yaml"))


def test_inputs_are_known_by_their_hash(models: Path, tmp_path: Path) -> None:
    out = merged(models, tmp_path / "out")
    provenance = read_provenance(out)
    assert provenance and [model.title for model in provenance.inputs] == ["base", "a", "b"]
    for model in provenance.inputs:
        (file,) = model.parts[0].files
        assert file.xxh3 == xxhash.xxh3_128((models / model.title / file.name).read_bytes()).hexdigest()
        assert file.xxh3 in (out / "README.md").read_text()


def test_models_of_the_same_name_are_told_apart(models: Path, tmp_path: Path) -> None:
    for place in ("x", "y"):
        shutil.copytree(models / "a", tmp_path / place / "tune")
    recipe = TIES | {
        "models": [{"model": str(tmp_path / place / "tune"), "parameters": {"weight": 1}} for place in ("x", "y")]
    }
    out = merged(models, tmp_path / "out", recipe)
    assert [entry["model"] for entry in yaml_of(out)["models"]] == ["tune (1)", "tune (2)"]
    provenance = read_provenance(out)
    assert provenance and [model.title for model in provenance.inputs] == ["base", "tune (1)", "tune (2)"]


def test_the_code_runs(chat_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = merged(chat_models, tmp_path / "out")
    (code,) = [code for language, code in blocks(out / "README.md") if language == "python"]
    assert "apply_chat_template" in code
    monkeypatch.chdir(out)
    exec(code.replace("max_new_tokens=100", "max_new_tokens=3"), {})
    assert capsys.readouterr().out.strip()


def test_stages_and_what_they_were_made_from(models: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "stages.yml"
    recipe.write_text(
        f"name: first\nmerge_method: linear\nmodels: [{{model: {models}/a}}, {{model: {models}/b}}]\nparameters: {{weight: 1}}\n"
        f"---\nmerge_method: slerp\nbase_model: first\nmodels: [{{model: first}}, {{model: {models}/c}}]\nparameters: {{t: 0.5}}\n"
    )
    for keep in (False, True):
        out = tmp_path / f"out{keep}"
        ws.merge(recipe, out, keep_stages=keep)
        provenance = read_provenance(out)
        assert provenance and sorted(model.title for model in provenance.inputs) == ["a", "b", "c"]
        assert provenance.recipe and "name: first" in provenance.recipe and str(models) not in provenance.recipe


@pytest.mark.parametrize(
    "heads,keys,words",
    [
        (["mit", "mit"], {"license": "mit"}, None),
        (["mit", "apache-2.0"], {}, "different licenses (a: mit; b: apache-2.0)"),
        (["mit", None], {}, "card of b names none"),
        ([None, None], {}, None),
    ],
)
def test_a_license_that_all_have(heads: list[str | None], keys: dict, words: str | None) -> None:
    parts = [InputModel((InputPart(name, (), license=head),)) for name, head in zip("ab", heads, strict=True)]
    found = license_of(tuple(parts))
    assert found.keys == keys and (words is None) == (found.warning is None)
    assert words is None or words in str(found.warning)


def test_different_licenses_are_said_when_merging(models: Path, tmp_path: Path) -> None:
    models = with_cards(models, tmp_path / "m", base="license: mit", a="license: llama3", b="license: mit")
    (models / "ties.yml").write_text(json.dumps(TIES))
    done = weightsmith_process("merge", models / "ties.yml", tmp_path / "out")
    assert done.returncode == 0 and "warning: the inputs have different licenses" in done.stderr
    assert "license" not in card_of(tmp_path / "out").data.to_dict()
    assert "a: llama3" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    "card",
    [
        "",
        "---\n",
        "---\nlicense: [1\n---\n",
        "---\nlicense: {a: b}\n---\n",
        "---\n- a\n---\n",
        "---\nlicense: '<script>'\n---\n",
    ],
)
def test_a_card_that_says_nothing(card: str, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "a")
    (tmp_path / "a/README.md").write_text(card)
    assert "license" not in card_head(tmp_path / "a") or isinstance(card_head(tmp_path / "a"), dict)
    out = merged(models, tmp_path / "out", {"merge_method": "passthrough", "models": [{"model": str(tmp_path / "a")}]})
    assert "license" not in card_of(out).data.to_dict() and "<script>" not in (out / "README.md").read_text()


HOSTILE = "<script>alert(1)</script>`|[x](javascript:1)\n# no heading"


def test_names_are_shown_and_not_obeyed() -> None:
    part = InputPart(HOSTILE, (WeightsFile(HOSTILE, 1, "0" * 32),))
    recipe = f"merge_method: linear # ```\n# {HOSTILE}\n````\n"
    provenance = Provenance("linear", recipe, (InputModel((part,), HOSTILE),), architectures=("LlamaForCausalLM",))
    text = Card(HOSTILE, "merge", provenance, HOSTILE).to_text()
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text.split("---\n", 2)[2], flags=re.DOTALL | re.MULTILINE)
    outside = re.sub(r"(?<!\\)`[^`\n]*`", "", outside)
    assert "<script>" not in outside and "\n# no heading" not in outside
    assert not re.search(r"(?<!\\)\[x(?<!\\)\]", outside)
    assert ModelCard(text).data.tags == ["merge", "weightsmith", "linear"]


def test_an_edited_card_is_kept(models: Path, tmp_path: Path) -> None:
    out = merged(models, tmp_path / "out")
    assert may_replace_card(out)
    card = out / "README.md"
    card.write_text(card.read_text().replace("# TIES of base, a and b", "# My model"))
    assert not may_replace_card(out)
    assert ws.merge(ws.Recipe.from_dict(TIES, path=models / "recipe.yml"), out).done_already  # it is still that merge


def test_without_a_card(models: Path, tmp_path: Path) -> None:
    """mergekit-yaml's flag does the same."""
    (models / "ties.yml").write_text(json.dumps(TIES))
    for number, flag in enumerate(("--no-card", "--no-write-model-card")):
        out = tmp_path / str(number)
        done = weightsmith_process("merge", models / "ties.yml", out, flag)
        assert done.returncode == 0, done.stderr
        assert not (out / "README.md").exists() and not (out / "provenance.json").exists()
    assert merged(models, tmp_path / "with").joinpath("README.md").exists()


def test_the_folder_has_no_part_in_it(models: Path, tmp_path: Path) -> None:
    one, two = (merged(models, tmp_path / name) for name in ("one", "two"))
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


@pytest.mark.parametrize("own", [None, "apache-2.0"])
def test_a_gguf_file_has_the_license_that_it_names_itself(own: str | None, gguf_file: Path, tmp_path: Path) -> None:
    """The card of its folder may be another model's."""
    import gguf

    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    source = gguf_file
    if own:
        source, reader = tmp_path / "own.gguf", gguf.GGUFReader(gguf_file)
        writer = gguf.GGUFWriter(source, "llama")
        for field in reader.fields.values():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                kind, inner = field.types[0], field.types[-1]
                writer.add_key_value(
                    field.name, field.contents(), kind, sub_type=inner if len(field.types) > 1 else None
                )
        writer.add_license(own)
        writer.add_languages(["en"])
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        source = Path(shutil.copy(gguf_file, tmp_path / "plain.gguf"))
    recipe = {"merge_method": "passthrough", "models": [{"model": str(source)}], "dtype": "float32"}
    (tmp_path / "r.yml").write_text(json.dumps(recipe))
    ws.merge(tmp_path / "r.yml", tmp_path / "out")
    data = card_of(tmp_path / "out").data.to_dict()
    assert data.get("license") == own and data.get("language") == (["en"] if own else None)
