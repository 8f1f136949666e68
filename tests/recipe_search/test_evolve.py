"""mergekit-evolve's configuration: what mergekit's own code makes of a genome has the same shape as what we search
through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import weightsmith_process
from weightsmith.engine.merge import merge
from weightsmith.errors import RecipeError
from weightsmith.files.inputs.yaml_file import dump_yaml, parse_yaml
from weightsmith.planning.make_plan import make_plan
from weightsmith.recipe.recipe import load_recipe
from weightsmith.recipe_search.candidate_recipe import candidate
from weightsmith.recipe_search.mergekit_evolve import search_tree
from weightsmith.recipe_search.search import middle
from weightsmith.recipe_search.space import find_spaces

GENOMES = {
    "ties": {"merge_method": "ties", "base_model": True, "layer_granularity": 1, "filters": ["self_attn", "mlp"]},
    "smooth": {"merge_method": "dare_ties", "base_model": True, "layer_granularity": 1, "smooth": True},
    "linear": {"merge_method": "linear", "layer_granularity": 2, "allow_negative_weights": True},
    "slerp": {"merge_method": "slerp", "layer_granularity": 1},
}


def text_of(case: str, models: Path) -> str:
    genome = GENOMES[case] | {"models": [str(models / "a"), str(models / "b")]}
    if genome.get("base_model"):
        genome["base_model"] = str(models / "base")
    lines = ["genome:", *(f"  {key}: {str(value).replace('True', 'true')}" for key, value in genome.items())]
    return "\n".join(
        [
            *lines,
            "tasks:",
            "  - arc_easy",
            "  - {name: gsm8k, weight: 0.5, metric: 'exact_match,strict-match'}",
            "limit: 20",
        ]
    )


@pytest.mark.parametrize("case", GENOMES)
def test_as_mergekit_reads_it(case: str, chat_models: Path) -> None:
    file = parse_yaml(Path("evolve.yml"), text_of(case, chat_models))
    tree = search_tree(file, lambda reference: 2)
    recipe = parse_yaml(Path("s.yml"), dump_yaml(tree["recipe"]))
    spaces = find_spaces(recipe)
    one = candidate(recipe.tree, middle(spaces, recipe.tree["merge_method"]), spaces)
    plan = make_plan(load_recipe(parse_yaml(Path("s.yml"), dump_yaml(one))))
    evo = pytest.importorskip("mergekit.evo.genome")
    genome = evo.ModelGenome(evo.ModelGenomeDefinition.model_validate(file.tree["genome"]))
    genotype = genome.initial_genotype()
    theirs = genome.genotype_merge_config(torch.full_like(genotype, 0.5))
    own = 1 if case == "slerp" else genotype.numel()  # mergekit's slerp has two numbers per group, of which one follows
    assert len(spaces) == (genotype.shape[0] if case == "slerp" else own)
    assert len(plan.recipe.schema.slices or []) == len(theirs.slices or [])
    ours = plan.recipe.schema
    assert ours.parameters.get("normalize", True) == (theirs.parameters or {}).get("normalize", True) or case == "slerp"
    assert [o["task"] for o in tree["objective"]] == ["arc_easy", "gsm8k"]
    assert tree["objective"][1]["filter"] == "strict-match" and tree["sampler"] == "cmaes"


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("layer_granularity: 1", "layer_granularity: 3", "not a multiple of 3"),
        ("merge_method: ties", "merge_method: tis", "merge_method"),
        ("limit: 20", "limits: 20", "did you mean 'limit'"),
    ],
)
def test_bad_ones(old: str, new: str, message: str, chat_models: Path) -> None:
    text = text_of("ties", chat_models)
    assert old in text
    with pytest.raises(RecipeError, match=message):
        search_tree(parse_yaml(Path("evolve.yml"), text.replace(old, new)), lambda reference: 2)


@pytest.mark.more
def test_a_search_by_it(chat_models: Path, tmp_path: Path) -> None:
    """Questions of two tasks of lm-evaluation-harness, groups of layers and filters, CMA-ES; best.yml is a plain
    recipe."""
    text = text_of("ties", chat_models)
    tasks = """tasks:
  - quick_facts
  - {name: quick_grammar, weight: 0.5, metric: 'acc,none'}
limit: 12"""
    path = tmp_path / "evolve.yml"
    path.write_text(text[: text.index("tasks:")] + tasks)
    result = weightsmith_process("search", path, tmp_path / "out", "--trials", 8)
    assert result.returncode == 0, result.stderr
    assert "quick_facts: 6 to search on, 6 held out" in result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["best"]["parameters"]) == 24  # two models, two groups of layers, three parts, weight and density
    merge(tmp_path / "out" / "best.yml", tmp_path / "merged")
