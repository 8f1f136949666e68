"""Weightsmith merges language models: inspect, unify, merge, export, evaluate, search, report.

    import weightsmith as ws

    ws.merge("ties.yml", "merged")
    print(ws.evaluate({"base": "phi-2", "merged": "merged"}, questions=["skill.jsonl"]).to_markdown())

Everything public is listed in `dir(weightsmith)` and loads on first use, so that importing the package stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from weightsmith.version import __version__ as __version__

if TYPE_CHECKING:
    from weightsmith.blocks.block import Block as Block
    from weightsmith.diagnosis.doctor import doctor as doctor
    from weightsmith.engine.layer_weights.weigh import weigh as weigh
    from weightsmith.engine.merge import MergeSummary as MergeSummary
    from weightsmith.engine.merge import merge as merge
    from weightsmith.engine.stages.plan_stages import plan as plan
    from weightsmith.engine.unify import unify as unify
    from weightsmith.engine.verify import verify as verify
    from weightsmith.errors import CheckpointError as CheckpointError
    from weightsmith.errors import EvaluationError as EvaluationError
    from weightsmith.errors import ExportError as ExportError
    from weightsmith.errors import MergeError as MergeError
    from weightsmith.errors import OutputError as OutputError
    from weightsmith.errors import PlanError as PlanError
    from weightsmith.errors import RecipeError as RecipeError
    from weightsmith.errors import ReportError as ReportError
    from weightsmith.errors import SearchError as SearchError
    from weightsmith.errors import WeightsmithError as WeightsmithError
    from weightsmith.evaluation.evaluate import evaluate as evaluate
    from weightsmith.evaluation.results.evaluation import Evaluation as Evaluation
    from weightsmith.evaluation.results.paired_tests import Comparison as Comparison
    from weightsmith.evaluation.tasks.question_task import Questions as Questions
    from weightsmith.evaluation.tasks.text_task import Text as Text
    from weightsmith.gguf.export import export as export
    from weightsmith.inspection.inspect import inspect as inspect
    from weightsmith.methods.merge_method import PerModel as PerModel
    from weightsmith.methods.merge_method import Shared as Shared
    from weightsmith.methods.merge_method import default as default
    from weightsmith.methods.merge_method import merge_method as merge_method
    from weightsmith.models.model import Model as Model
    from weightsmith.models.open_model import open_model as open_model
    from weightsmith.pipeline.run import run as run
    from weightsmith.planning.plan import Plan as Plan
    from weightsmith.publishing.push import push as push
    from weightsmith.recipe.recipe import Recipe as Recipe
    from weightsmith.recipe.recipe import load_recipe as load_recipe
    from weightsmith.recipe_search.ablate import ablate as ablate
    from weightsmith.recipe_search.search import search as search

_PUBLIC = {
    "Block": "weightsmith.blocks.block",
    "CheckpointError": "weightsmith.errors",
    "Comparison": "weightsmith.evaluation.results.paired_tests",
    "Evaluation": "weightsmith.evaluation.results.evaluation",
    "EvaluationError": "weightsmith.errors",
    "ExportError": "weightsmith.errors",
    "MergeError": "weightsmith.errors",
    "MergeSummary": "weightsmith.engine.merge",
    "Model": "weightsmith.models.model",
    "OutputError": "weightsmith.errors",
    "PerModel": "weightsmith.methods.merge_method",
    "Plan": "weightsmith.planning.plan",
    "PlanError": "weightsmith.errors",
    "Questions": "weightsmith.evaluation.tasks.question_task",
    "Recipe": "weightsmith.recipe.recipe",
    "RecipeError": "weightsmith.errors",
    "ReportError": "weightsmith.errors",
    "SearchError": "weightsmith.errors",
    "Shared": "weightsmith.methods.merge_method",
    "Text": "weightsmith.evaluation.tasks.text_task",
    "WeightsmithError": "weightsmith.errors",
    "ablate": "weightsmith.recipe_search.ablate",
    "default": "weightsmith.methods.merge_method",
    "doctor": "weightsmith.diagnosis.doctor",
    "evaluate": "weightsmith.evaluation.evaluate",
    "export": "weightsmith.gguf.export",
    "inspect": "weightsmith.inspection.inspect",
    "load_recipe": "weightsmith.recipe.recipe",
    "merge": "weightsmith.engine.merge",
    "merge_method": "weightsmith.methods.merge_method",
    "open_model": "weightsmith.models.open_model",
    "plan": "weightsmith.engine.stages.plan_stages",
    "push": "weightsmith.publishing.push",
    "run": "weightsmith.pipeline.run",
    "search": "weightsmith.recipe_search.search",
    "unify": "weightsmith.engine.unify",
    "verify": "weightsmith.engine.verify",
    "weigh": "weightsmith.engine.layer_weights.weigh",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'weightsmith' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
