"""What `import weightsmith` gives: typed, documented with examples that run, and the same as the command line."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import weightsmith as ws
from tests.code_blocks import ROOT, blocks, save_recipes
from tests.conftest import SKILLS, save_stranger, weightsmith_process
from weightsmith.commands.app import command_names
from weightsmith.methods.registry import METHODS

FUNCTIONS = [name for name in dir(ws) if inspect.isfunction(getattr(ws, name))]
CLASSES = [name for name in dir(ws) if inspect.isclass(getattr(ws, name))]
PYTHON_PAGE = ROOT / "docs/python.md"


def test_everything_public_is_there_and_described() -> None:
    assert {"merge", "plan", "Recipe", "Questions", "merge_method", "RecipeError", "__version__"} <= set(dir(ws))
    for name in (*FUNCTIONS, *CLASSES):
        assert inspect.getdoc(getattr(ws, name)), name
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = ws.quantise  # type: ignore[attr-defined]
    source = Path(ws.__file__).read_text()
    assert re.findall(r"import (\w+) as \1$", source, re.MULTILINE) == [*ws.__all__[:1], *_typed(source)]


def _typed(source: str) -> list[str]:
    """The names that type checkers see; those of the table, in the order of their modules."""
    typed = re.findall(r"^    from [\w.]+ import (\w+) as \1$", source, re.MULTILINE)
    assert sorted(typed) == sorted(ws.__all__[1:])
    return typed


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "run"])
def test_the_examples_run(name: str, docs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_examples(getattr(ws, name), docs_folder, monkeypatch)


@pytest.mark.more
def test_the_example_of_a_pipeline_runs(docs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_recipes(ROOT / "docs/pipelines.md", docs_folder)
    _run_examples(ws.run, docs_folder, monkeypatch)


@pytest.mark.parametrize("name", ["Evaluation", "Model", "Plan", "Questions", "Recipe", "Text"])
def test_the_examples_of_classes_run(name: str, docs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_examples(getattr(ws, name), docs_folder, monkeypatch)


def _run_examples(documented: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    save_recipes(PYTHON_PAGE, folder)
    before = dict(METHODS)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    examples = [test for test in doctest.DocTestFinder().find(documented, globs={"ws": ws}) if test.examples]
    assert examples, "it has no example"
    try:
        for test in examples:
            runner.run(test)
    finally:
        METHODS.clear()
        METHODS.update(before)
    assert runner.failures == 0


TERMINAL_ONLY = {
    "quiet", "dry_run", "profile", "gguf", "no_intermediate", "list_types", "base", "export_top", "json_", "recipe",
    "save_mapping", "everything", "method", "parameters", "dtype", "output", "arguments",
}  # fmt: skip
WRITTEN_THERE = {"weigh": {"out", "force"}}  # in Python a recipe is a result
IN_ARGUMENTS = {"merge": {"recipe", "out"}}  # without a recipe they are models


@pytest.mark.parametrize("command", [name for name in command_names() if name in ws.__all__])
def test_keywords_are_options(command: str) -> None:
    options = inspect.signature(getattr(importlib.import_module(f"weightsmith.commands.{command}"), command)).parameters
    keywords = inspect.signature(getattr(ws, command)).parameters
    assert set(options) - set(keywords) <= TERMINAL_ONLY | WRITTEN_THERE.get(command, set())
    python_only = {"log", "on_progress", "on_plan", "tokenizer_source", "beside"}
    assert set(keywords) - set(options) <= python_only | IN_ARGUMENTS.get(command, set())


def test_a_users_script_passes_the_type_checker(tmp_path: Path) -> None:
    """docs/python.md, in a project of its own that knows nothing but the installed package."""
    for number, (language, text) in enumerate(blocks(PYTHON_PAGE)):
        if language == "python":
            (tmp_path / f"script_{number}.py").write_text(text, encoding="utf-8")
    settings = (
        f'{{"pythonVersion": "3.11", "typeCheckingMode": "standard", "extraPaths": ["{Path(ws.__file__).parents[1]}"]}}'
    )
    (tmp_path / "pyrightconfig.json").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "0 errors" in done.stdout, done.stdout
    assert (Path(ws.__file__).parent / "py.typed").exists()
    (tmp_path / "script_1.py").write_text("import weightsmith as ws\n\nws.verify('a', threds=1)\n")
    wrong = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "script_1.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'No parameter named "threds"' in wrong.stdout  # so that it is checked at all


@pytest.mark.more
def test_the_page_runs_on_the_demos_models(smollm: Path, specialists: Path, tmp_path: Path) -> None:
    ws.unify(smollm, tmp_path / "base")
    for name, skill in (("coder", SKILLS[0]), ("writer", SKILLS[1])):
        (tmp_path / name).symlink_to(specialists / skill)
    from weightsmith.demo.run_demo import PACKAGE

    (tmp_path / "skill.jsonl").symlink_to(PACKAGE / "data" / f"{SKILLS[0]}.jsonl")
    (tmp_path / "novel.txt").write_text((PACKAGE / "data" / "general.txt").read_text()[:3000])
    save_recipes(ROOT / "docs/quickstart.md", tmp_path)
    save_recipes(PYTHON_PAGE, tmp_path)
    script = next(text for language, text in blocks(PYTHON_PAGE) if language == "python")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ties: 3 models, 272 tensors" in done.stdout and "Progress(stage='merging'" in done.stdout


PLUGIN = """
import weightsmith as ws


@ws.merge_method(paper="https://example.org", needs_base=True)
def midpoint(block: ws.Block, t: ws.Shared[float] = 0.5):
    "Halfway between the base and the mean of the others."
    return block.base.lerp(block.others.mean(0), t)
"""


def test_a_package_brings_a_method(chat_models: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "plugin-1.0.dist-info").mkdir(parents=True)
    (site / "plugin_methods.py").write_text(PLUGIN)
    (site / "plugin-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (site / "plugin-1.0.dist-info" / "entry_points.txt").write_text(
        "[weightsmith.methods]\nmidpoint = plugin_methods\n"
    )
    base, other = chat_models / "base", chat_models / "a"
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        f"merge_method: midpoint\nbase_model: {base}\nmodels: [{{model: {other}}}]\nparameters: {{t: 0.25}}\ndtype: float32\n"
    )
    without = weightsmith_process("merge", recipe, tmp_path / "out")
    assert without.returncode == 2 and "unknown merge_method 'midpoint'" in without.stderr
    done = weightsmith_process("merge", recipe, tmp_path / "out", env=os.environ | {"PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr
    name = "model.norm.weight"
    merged, ours, theirs = (ws.open_model(str(folder))[name] for folder in (tmp_path / "out", base, other))
    assert merged.equal(ours.float().lerp(theirs.float(), 0.25))
    (site / "plugin_methods.py").write_text("import nothing_of_that_name\n")
    broken = weightsmith_process("merge", recipe, tmp_path / "again", env=os.environ | {"PYTHONPATH": str(site)})
    assert broken.returncode == 2 and "the package plugin brings the merge method 'midpoint'" in broken.stderr


def test_what_a_method_of_ones_own_does_wrong_is_said(chat_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightsmith.methods.registry.METHODS", METHODS)
    before = dict(METHODS)
    entries = [{"model": str(chat_models / name)} for name in "ab"]
    try:

        @ws.merge_method()
        def short(block: ws.Block):
            return block.inputs.mean()

        @ws.merge_method()
        def failing(block: ws.Block, weight: ws.PerModel[float]):
            raise IndexError("no such row")

        with pytest.raises(ws.MergeError, match=r"'short' returned \[\]; it has to return a tensor of shape \[\d+\]"):
            ws.merge(ws.Recipe(merge_method="short", models=entries))
        weighted = [entry | {"parameters": {"weight": 1}} for entry in entries]
        with pytest.raises(ws.MergeError, match="'failing' failed: IndexError: no such row"):
            ws.merge(ws.Recipe(merge_method="failing", models=weighted))
        with pytest.raises(ws.RecipeError, match="weight"):  # it has no default
            ws.plan(ws.Recipe(merge_method="failing", models=entries))
        with pytest.raises(ws.RecipeError, match="there is a merge method 'ties' already"):
            ws.merge_method(name="ties")(short)
        with pytest.raises(TypeError, match=r"'weight' is annotated .*; write Shared\[float\]"):

            @ws.merge_method()
            def wrong(block: ws.Block, weight: int = 1):
                return block.base
    finally:
        METHODS.clear()
        METHODS.update(before)


def test_a_recipe_from_keywords_a_mapping_and_a_file_is_the_same(chat_models: Path, tmp_path: Path) -> None:
    keys = {
        "merge_method": "linear",
        "models": [{"model": str(chat_models / name), "parameters": {"weight": 0.5}} for name in "ab"],
        "dtype": "float32",
    }
    made = ws.Recipe(**keys)
    (tmp_path / "recipe.yml").write_text(str(made))
    recipes = [made, ws.Recipe.from_dict(keys), ws.load_recipe(tmp_path / "recipe.yml")]
    assert recipes[0].schema == recipes[1].schema == recipes[2].schema
    whole = ws.open_model(str(ws.merge(made, tmp_path / "out").out))
    for recipe in recipes:
        tensors = ws.merge(recipe)
        assert tensors.keys() == whole.keys() and all(tensors[name].equal(whole[name]) for name in whole)


def test_nan_in_memory_is_an_error_or_a_warning(tmp_path: Path) -> None:
    save_stranger(tmp_path / "a", 0, 3, (8, 8))
    save_stranger(tmp_path / "b", 1, 3, (8, 8), **{"1": (0, 0, float("nan"))})
    entries = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in "ab"]
    recipe = ws.Recipe(merge_method="linear", models=entries, dtype="float32")
    with pytest.raises(ws.MergeError, match="holds 1 NaN"):
        ws.merge(recipe)
    with pytest.warns(UserWarning, match=r"1 tensors have NaN or infinite inputs, such as 'net.1.w' of .*b$"):
        tensors = ws.merge(recipe, on_nan="warn")
    assert sum(int(tensor.isnan().sum()) for tensor in tensors.values()) == 1


def test_errors_say_where() -> None:
    with pytest.raises(ws.RecipeError, match=r"^recipe: models.0.wieght: unknown key|^recipe: unknown key") as raised:
        ws.Recipe(merge_method="linear", models=[{"model": "a", "wieght": 1}])
    assert raised.value.path == Path("recipe") and raised.value.line is None


def test_errors_of_a_file_have_its_path_and_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text("merge_method: linear\nmodels:\n  - model: a\n    wieght: 1\n")
    with pytest.raises(ws.RecipeError) as raised:
        ws.load_recipe(path)
    assert (raised.value.path, raised.value.line) == (path, 4)
    (tmp_path / "q.jsonl").write_text('{"prompt": "a", "target": "b"}\n{\n')
    with pytest.raises(ws.EvaluationError) as data:
        ws.Questions(tmp_path / "q.jsonl")
    assert (data.value.path, data.value.line) == (tmp_path / "q.jsonl", 2)
    with pytest.raises(ws.CheckpointError) as missing:
        ws.open_model(str(tmp_path / "nowhere"))
    assert missing.value.path == tmp_path / "nowhere"


def test_a_method_that_changed_is_another_one() -> None:
    """Also where it has no source to read: one that was typed in, with another number."""
    identities = []
    before = dict(METHODS)
    try:
        for factor in (0.5, 0.6):
            names = {"ws": ws}
            exec(f"@ws.merge_method()\ndef typed(block: ws.Block):\n    return block.inputs.mean(0) * {factor}", names)
            identities.append(METHODS["typed"].identity)
    finally:
        METHODS.clear()
        METHODS.update(before)
    assert len(set(identities)) == 2 and METHODS["ties"].identity == ""
