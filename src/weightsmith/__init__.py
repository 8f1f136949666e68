"""Weightsmith merges language models. Public names load on first use, so that importing the package stays fast."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "inspect": "weightsmith.inspection.inspect",
    "merge": "weightsmith.engine.merge",
    "verify": "weightsmith.engine.verify",
    "unify": "weightsmith.engine.unify",
    "load_recipe": "weightsmith.recipe.recipe",
    "open_model": "weightsmith.models.open_model",
    "export": "weightsmith.gguf.export",
    "quantize": "weightsmith.gguf.quantization.quantizer",
    "evaluate": "weightsmith.evaluation.evaluate",
    "Questions": "weightsmith.evaluation.tasks.question_task",
    "Text": "weightsmith.evaluation.tasks.text_task",
    "run": "weightsmith.pipeline.run",
    "search": "weightsmith.recipe_search.search",
    "ablate": "weightsmith.recipe_search.ablate",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'weightsmith' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
