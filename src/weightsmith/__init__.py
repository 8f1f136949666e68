"""Weightsmith merges language models. Public names load on first use, so that importing the package stays fast."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "inspect": "weightsmith.inspection.inspect",
    "merge": "weightsmith.engine.merge",
    "verify": "weightsmith.engine.checksums",
    "unify": "weightsmith.engine.unify",
    "load_recipe": "weightsmith.recipe.load",
    "open_model": "weightsmith.architecture",
    "export": "weightsmith.export",
    "quantize": "weightsmith.export",
    "evaluate": "weightsmith.evaluate",
    "run_benchmarks": "weightsmith.evaluate.benchmark",
    "BenchmarkSettings": "weightsmith.evaluate.benchmark_settings",
    "run": "weightsmith.pipeline.run",
    "search": "weightsmith.search",
    "ablate": "weightsmith.search.ablate",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'weightsmith' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
